"""Everything a report says, computed from a job and its events; nothing here draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mofang.domain.events import Event, EventKind
from mofang.domain.job import Job
from mofang.domain.plan import Plan
from mofang.domain.scenario import Classify
from mofang.report.comparisons import Comparison, comparisons
from mofang.report.recoveries import Recovery, recoveries
from mofang.report.services import Served, served
from mofang.report.steps import (
    StepPoint,
    curve,
    number,
    redone_steps,
    step_points,
    validation_curve,
)
from mofang.report.timeline import Activity, Span, partition, shares, spans

__all__ = ["Summary", "chosen_plan", "summarise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a job was asked, what it did and how long that took. Times in seconds since the epoch, losses in nats."""

    plan: Plan | None
    points: tuple[StepPoint, ...]
    curve: tuple[StepPoint, ...]
    validation: tuple[tuple[int, float], ...]
    recoveries: tuple[Recovery, ...]
    comparisons: tuple[Comparison, ...]
    pieces: tuple[Span, ...]
    shares: Mapping[Activity, float]
    checkpoints: tuple[tuple[float, int], ...]  # when, and at which step
    generations: tuple[tuple[float, float, str], ...]  # from, to, name
    redone: int
    start: float
    end: float
    sample: str
    result: Mapping[str, Any]
    served: Served | None = None  # of a service
    accuracy: float | None = None  # of a classifier, in its last validation
    image_tokens: int | None = None  # of one image, where images are what is trained on

    @property
    def final_loss(self) -> float | None:
        """The loss of the last step."""
        return self.curve[-1].loss if self.curve else None

    @property
    def final_validation_loss(self) -> float | None:
        """The last validation loss."""
        return self.validation[-1][1] if self.validation else None


def chosen_plan(job: Job) -> Plan | None:
    """Return the plan of the job's latest attempt, or its best one where none has started."""
    index = job.attempt.plan_index if job.attempt is not None else 0
    return job.plans[index] if index < len(job.plans) else None


def summarise(job: Job, events: Sequence[Event]) -> Summary:
    """Compute a report's figures. The events may come in any order."""
    ordered = sorted(events, key=lambda event: (event.time, event.attempt, event.generation, event.sequence))
    active = [event for event in ordered if event.attempt > 0]
    points = step_points(active)
    start, end = _extent(job, active)
    pieces = partition(spans(active), start, end)
    plan, service, task = chosen_plan(job), served(active), job.scenario.task
    return Summary(
        plan=plan,
        points=points,
        curve=curve(points),
        validation=validation_curve(active),
        recoveries=recoveries(active),
        comparisons=comparisons(job, plan, points, active),
        pieces=pieces,
        shares=shares(pieces),
        checkpoints=_checkpoints(active),
        generations=_generations(active, end),
        redone=redone_steps(points),
        start=start,
        end=end,
        sample=_last_text(active),
        result=next((event.data for event in reversed(active) if event.kind is EventKind.RESULT), {}),
        served=service,
        accuracy=_accuracy(active),
        image_tokens=task.model.sequence if isinstance(task, Classify) else None,
    )


def _accuracy(events: Sequence[Event]) -> float | None:
    values = [number(event, "accuracy") for event in events if event.kind is EventKind.VALIDATION]
    return values[-1] if values else None


def _extent(job: Job, active: Sequence[Event]) -> tuple[float, float]:
    """Return when the first attempt began and the last one ended."""
    if not active:
        start = job.started_at or job.submitted_at
        return start, max(start, job.ended_at or start)
    return active[0].time, active[-1].time


def _checkpoints(events: Sequence[Event]) -> tuple[tuple[float, int], ...]:
    """Return each saved checkpoint once, however many ranks reported it."""
    saved: dict[tuple[int, int, int], float] = {}
    for event in events:
        if event.kind is EventKind.CHECKPOINT_SAVED:
            key = (event.attempt, event.generation, int(event.data.get("step", 0)))
            saved[key] = max(event.time, saved.get(key, event.time))
    return tuple(sorted((time, step) for (_, _, step), time in saved.items()))


def _generations(events: Sequence[Event], end: float) -> tuple[tuple[float, float, str], ...]:
    starts: dict[tuple[int, int], float] = {}
    ends: dict[tuple[int, int], float] = {}
    for event in events:
        key = (event.attempt, event.generation)
        if event.kind is EventKind.GENERATION_STARTED:
            starts.setdefault(key, event.time)
        elif event.kind is EventKind.GENERATION_ENDED:
            ends[key] = event.time
    several = len({attempt for attempt, _ in starts}) > 1
    return tuple(
        (since, ends.get(key, end), (f"attempt {key[0]}, " if several else "") + f"generation {key[1]}")
        for key, since in sorted(starts.items())
    )


def _last_text(events: Sequence[Event]) -> str:
    samples = [str(event.data.get("text", "")) for event in events if event.kind is EventKind.SAMPLE]
    return samples[-1] if samples else ""
