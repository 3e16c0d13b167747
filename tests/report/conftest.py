"""A job's life as its events tell it, made up with a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from mofang.clock import seeded
from mofang.domain.estimate import Estimate, Interval
from mofang.domain.events import Event, EventKind
from mofang.domain.job import Allocation, Attempt, AttemptState, Job, JobState, NodeDevices
from mofang.domain.model import ModelArchitecture
from mofang.domain.plan import Placement, Plan
from mofang.domain.reasons import Reason
from mofang.domain.scenario import Pretrain, Scenario, TextData
from mofang.domain.strategy import Parallelism, Sharding, Strategy

START = 1_790_000_000.0
SAMPLE = (
    'def read(self, size=-1):\n    """Read <b>up to</b> size bytes & return them."""\n    return self._buffer[:size]\n'
)


class Story:
    """Events with a clock of their own."""

    def __init__(self, start: float = START) -> None:
        self.now = start
        self.events: list[Event] = []
        self._sequences: dict[tuple[int, int, str], int] = {}

    def tell(
        self, kind: EventKind, *, source: str = "r0000", generation: int = 1, attempt: int = 1, **data: object
    ) -> None:
        key = (attempt, generation, source)
        self._sequences[key] = self._sequences.get(key, 0) + 1
        self.events.append(
            Event(
                job_id="j",
                attempt=attempt,
                generation=generation,
                source=source,
                sequence=self._sequences[key],
                time=self.now,
                kind=kind,
                data=data,
                cursor=len(self.events) + 1,
            )
        )


def train(story: Story, rng, first: int, last: int, generation: int, every: int = 60, scale: float = 1.0) -> None:
    """Tell of steps first..last, with a checkpoint and a validation every so often."""
    for step in range(first, last + 1):
        took = 0.14 * scale * rng.uniform(0.93, 1.12) * (2.5 if step == first else 1.0)
        story.now += took
        loss = 1.75 + 3.8 * math.exp(-step / 90) + rng.gauss(0, 0.05)
        story.tell(
            EventKind.STEP,
            generation=generation,
            step=step,
            loss=loss,
            lr=3e-4,
            grad_norm=1.0,
            step_time_s=took,
            tokens_per_s=4096 / took,
            mfu=0.42 * 0.14 / took,
            memory_bytes=412e6 + 8e6 * math.sin(step / 40),
        )
        if step % every == 0:
            story.tell(EventKind.PHASE, generation=generation, name="validate", done=0, total=8, detail="")
            story.now += 0.45
            story.tell(EventKind.VALIDATION, generation=generation, step=step, loss=1.86 + 3.7 * math.exp(-step / 88))
            story.now += 0.12
            story.tell(EventKind.CHECKPOINT_SAVED, generation=generation, step=step, bytes=10_000_000, seconds=0.12)


def code_gpt(seed: int = 0, *, fault: bool = True) -> list[Event]:
    """Return the events of the demonstration: 600 steps of two workers, one killed half-way."""
    rng, story = seeded(seed), Story()
    story.tell(EventKind.SUBMITTED, source="control", attempt=0, generation=0, plans=4)
    story.now += 0.3
    story.tell(EventKind.ATTEMPT_STARTED, source="control", generation=0, plan_index=0, devices=2, nodes=["local"])
    story.now += 0.4
    story.tell(EventKind.GENERATION_STARTED, source="agent-00", workers=2, pids=[1, 2], port=3)
    story.now += 3.1
    for phase, seconds in (("data", 1.4), ("build", 0.4), ("load", 0.1), ("train", 0.0)):
        story.tell(EventKind.PHASE, name=phase, done=0, total=1, detail="")
        story.now += seconds
    train(story, rng, 1, 317 if fault else 600, 1)
    if fault:
        story.tell(EventKind.FAULT_INJECTED, source="r0001", step=317, rank=1, what="SIGKILL")
        story.now += 0.11
        story.tell(EventKind.WORKER_EXITED, source="agent-00", rank=1, exit_code=None, signal=9, message="killed")
        story.now += 0.4
        story.tell(
            EventKind.GENERATION_ENDED, source="agent-00", reason=Reason.WORKER_KILLED, message="rank 1", step=317
        )
        story.now += 0.05
        story.tell(EventKind.GENERATION_STARTED, source="agent-00", generation=2, workers=2, pids=[3, 4], port=5)
        story.now += 3.0
        story.tell(EventKind.PHASE, generation=2, name="load", done=0, total=1, detail="")
        story.now += 0.2
        story.tell(EventKind.CHECKPOINT_LOADED, generation=2, step=300, seconds=0.1, path="step-00000300")
        train(story, rng, 301, 600, 2)
    generation = 2 if fault else 1
    story.tell(EventKind.PHASE, generation=generation, name="sample", done=0, total=400, detail="")
    story.now += 1.6
    story.tell(EventKind.SAMPLE, generation=generation, text=SAMPLE)
    story.tell(
        EventKind.RESULT, generation=generation, steps=600, loss=1.8, validation_loss=1.9, tokens=2457600, params=803712
    )
    story.now += 0.4
    story.tell(
        EventKind.GENERATION_ENDED,
        source="agent-00",
        generation=generation,
        reason=Reason.COMPLETED,
        message="",
        step=600,
    )
    story.tell(EventKind.OUTCOME, source="agent-00", generation=generation, reason=Reason.COMPLETED, message="")
    story.now += 0.1
    story.tell(EventKind.ATTEMPT_ENDED, source="control", generation=0, reason=Reason.COMPLETED, message="")
    story.tell(
        EventKind.JOB_ENDED, source="control", generation=0, state="succeeded", reason=Reason.COMPLETED, message=""
    )
    return story.events


def code_gpt_job(events: Sequence[Event] = (), name: str = "code-gpt") -> Job:
    """Return the job whose life ``code_gpt`` tells."""
    model = ModelArchitecture(
        name="gpt-0.8m", layers=4, hidden=128, heads=4, kv_heads=4, ffn=344, vocab=256, head_dim=32, max_sequence=256
    )
    task = Pretrain(
        model=model, data=TextData(paths=("python-stdlib",)), sequence=256, global_batch=16, duration_s=90.0
    )
    estimate = Estimate(
        step_time_s=0.149,
        step_time_90=Interval(low=0.118, high=0.188),
        tokens_per_s=4096 / 0.149,
        mfu=0.394,
        memory_bytes=445e6,
        peak_flops=1e11,
        total_time_s=90.0,
    )
    plan = Plan(
        strategy=Strategy(parallelism=Parallelism(dp=2), sharding=Sharding.DDP, micro_batch=8),
        placement=Placement(cluster="local", accelerator="cpu", num_devices=2, num_nodes=1),
        steps=600,
        estimate=estimate,
    )
    attempt = Attempt(
        job_id="j",
        number=1,
        fence=1,
        plan_index=0,
        allocation=Allocation(cluster="local", nodes=(NodeDevices(node="n", accelerator="cpu", indices=(0, 1)),)),
        state=AttemptState.ENDED,
        started_at=START,
    )
    return Job(
        id="7f3a9c12",
        name=name,
        scenario=Scenario(name=name, task=task),
        plans=(plan,) * 4,
        state=JobState.SUCCEEDED,
        submitted_at=START,
        started_at=START + 0.3,
        ended_at=events[-1].time if events else None,
        reason=Reason.COMPLETED,
        attempt=attempt,
    )


@pytest.fixture
def events() -> list[Event]:
    return code_gpt()


@pytest.fixture
def make_events() -> Callable[..., list[Event]]:
    return code_gpt


@pytest.fixture
def make_job() -> Callable[..., Job]:
    return code_gpt_job


@pytest.fixture
def make_story() -> Callable[..., Story]:
    return Story
