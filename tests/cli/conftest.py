"""A controller's twin for commands: it answers from what a test put into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mofang.backends.protocol import Artefact
from mofang.cli import session
from mofang.client import LogText, Submitted
from mofang.clock import ManualClock
from mofang.domain.estimate import Estimate, Evidence, Interval
from mofang.domain.events import Event, EventKind
from mofang.domain.job import Allocation, Attempt, Job, JobState, NodeDevices
from mofang.domain.plan import MatchResult, Placement, Plan
from mofang.domain.reasons import Reason, Rejection
from mofang.domain.scenario import Command, Scenario
from mofang.domain.strategy import Parallelism, Sharding, Strategy
from mofang.errors import NotFoundError

NOW = 1_790_000_000.0

ESTIMATE = Estimate(
    step_time_s=0.15,
    step_time_90=Interval(low=0.12, high=0.19),
    tokens_per_s=27_300.0,
    mfu=0.39,
    memory_bytes=445e6,
    peak_flops=1e11,
    total_time_s=90.0,
    time={"compute": 0.1, "communication": 0.05},
    memory={"weights": 4e8, "activations": 4.5e7},
    evidence=(Evidence(what="matmul rate", source="measured on this host"),),
)


def make_plan(workers: int = 2, estimate: Estimate | None = ESTIMATE) -> Plan:
    strategy = Strategy(
        parallelism=Parallelism(dp=workers), sharding=Sharding.DDP if workers > 1 else Sharding.NONE, micro_batch=8
    )
    placement = Placement(cluster="local", accelerator="cpu", num_devices=workers, num_nodes=1)
    return Plan(strategy=strategy, placement=placement, steps=4, estimate=estimate)


def make_job(state: JobState = JobState.SUCCEEDED, **fields: object) -> Job:
    attempt = Attempt(
        job_id="7f3a9c12",
        number=1,
        fence=1,
        plan_index=1,
        allocation=Allocation(cluster="local", nodes=(NodeDevices(node="n", accelerator="cpu", indices=(0, 1)),)),
        started_at=NOW,
    )
    values = {
        "id": "7f3a9c12",
        "name": "toy",
        "scenario": Scenario(name="toy", task=Command(argv=("python", "train.py"), workers=2)),
        "plans": (make_plan(1), make_plan(2)),
        "state": state,
        "submitted_at": NOW,
        "started_at": NOW,
        "attempt": attempt,
    }
    return Job(**values | fields)


def make_events(*kinds: tuple, attempt: int = 1) -> list[Event]:
    """Return events from (kind, seconds, generation, data)."""
    return [
        Event(
            job_id="7f3a9c12",
            attempt=attempt,
            generation=generation,
            source="r0000",
            sequence=index,
            time=NOW + seconds,
            kind=kind,
            data=data,
            cursor=index + 1,
        )
        for index, (kind, seconds, generation, data) in enumerate(kinds)
    ]


def step(number: int, seconds: float, generation: int = 1) -> tuple:
    data = {"step": number, "loss": 5.0 - number / 10, "step_time_s": 1.0, "tokens_per_s": 34_100.0, "mfu": 0.41}
    return EventKind.STEP, seconds, generation, data


RUN = (
    (EventKind.ATTEMPT_STARTED, 0, 0, {"plan_index": 1, "devices": 2, "nodes": ["n"]}),
    (EventKind.GENERATION_STARTED, 1, 1, {"workers": 2}),
    (EventKind.PHASE, 1.5, 1, {"name": "data", "done": 3, "total": 9}),
    step(1, 2),
    step(2, 3),
    (EventKind.FAULT_INJECTED, 3.5, 1, {"step": 2, "rank": 1, "what": "SIGKILL"}),
    (EventKind.WORKER_EXITED, 3.6, 1, {"rank": 1, "exit_code": None, "signal": 9}),
    (EventKind.GENERATION_STARTED, 4, 2, {"workers": 2}),
    (EventKind.CHECKPOINT_LOADED, 6, 2, {"step": 1, "seconds": 0.1}),
    step(2, 7.5, 2),
    step(3, 8.5, 2),
    (EventKind.VALIDATION, 8.7, 2, {"step": 3, "loss": 2.5}),
    step(4, 9.5, 2),
    (EventKind.SAMPLE, 10, 2, {"text": "def f():\n    return 1\x1b[31m"}),
    (EventKind.JOB_ENDED, 11, 0, {"state": "succeeded", "reason": "completed"}),
)


class FakeClient:
    """Answers as a controller would, and remembers what it was asked."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.job_value = make_job()
        self.events_value = make_events(*RUN)
        self.logs_value: dict[tuple[int | None, int | None], str] = {}
        self.result = MatchResult(plans=(make_plan(2), make_plan(1)), candidates=12)
        self.explained: dict = {"reason": None, "position": None, "blockers": [], "attempts": [], "plans": []}
        self.submissions: list[SimpleNamespace] = []
        self.stopped: list[str] = []
        self.planned: list[tuple] = []
        self.failures: list[Exception] = []  # raised by the next questions for events, one each
        self.page = 1000

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to hang up."""

    def jobs(self, states: Sequence[str] | None = None, limit: int | None = None) -> list[dict]:
        found = [row for row in self.rows if states is None or row["state"] in states]
        return found[:limit]

    def job(self, ref: str) -> Job:
        if not self.job_value.id.startswith(ref) and ref != self.job_value.name:
            raise NotFoundError(f"there is no job {ref!r}", hint="`mofang ps` lists the jobs")
        return self.job_value

    def events(self, ref, after=0, limit=1000, wait_s=0.0, kinds=None):
        if self.failures:
            raise self.failures.pop(0)
        found = [event for event in self.events_value if event.cursor > after and (not kinds or event.kind in kinds)]
        found = found[: min(limit, self.page)]
        return found, found[-1].cursor if found else after

    def logs(self, ref, rank=0, attempt=None, generation=None, offset=0, limit=65536):
        whole = self.logs_value.get((attempt, generation), "")
        text = whole[offset:] if offset < 0 else whole[offset : offset + 7]
        return LogText(text, offset + len(text), not text)

    def plan(self, scenario, hardware=None, num_plans=8, *, pools=None, explain=False):
        self.planned.append((scenario, hardware, num_plans))
        return self.result

    def submit(self, scenario, plans, *, key=None, user=None, secrets=None):
        created = key is None or key not in [one.key for one in self.submissions]
        self.submissions.append(SimpleNamespace(scenario=scenario, plans=plans, key=key, secrets=secrets))
        return Submitted(self.job_value.id, created)

    def stop(self, ref):
        self.job(ref)
        self.stopped.append(ref)
        return "stopping"

    def explain(self, ref):
        self.job(ref)
        return self.explained

    def render(self, scenario, plan):
        return [Artefact(name="attempt-0001/launch.json", text='{"job": 1}\n')]

    def infeasible(self) -> None:
        """Answer from now on that nothing fits."""
        rows = (
            Rejection(
                code=Reason.MEMORY, what="2 x cpu, ddp", need=91e9, have=8e9, hint="a smaller model", candidates=9
            ),
            Rejection(code=Reason.WORSE, what="1 x cpu", candidates=3),
        )
        self.result = replace(self.result, plans=(), rejections=rows)


@pytest.fixture
def client(monkeypatch, tmp_path) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(session, "connect", lambda: fake)
    monkeypatch.setattr(session, "clock", lambda: ManualClock(NOW + 100))
    monkeypatch.setenv("MOFANG_HOME", str(tmp_path / "home"))
    return fake


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "MOFANG_DEBUG"):
        monkeypatch.delenv(name, raising=False)
