"""The steps a job made, as its workers reported them: which were made twice, and how long they took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from mofang.domain.events import Event, EventKind

__all__ = [
    "StepPoint",
    "curve",
    "median_of",
    "number",
    "peak_memory",
    "redone_steps",
    "step_points",
    "validation_curve",
]

Generation = tuple[int, int]  # attempt and generation


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPoint:
    """One completed optimiser step. Times in seconds, memory in bytes; None: not reported.

    ``count`` is the number of steps since the point before it (more than 1 where not every step is reported);
    ``redone``: an earlier generation had completed this step already.
    """

    step: int
    time: float
    generation: Generation
    count: int
    redone: bool
    loss: float | None
    step_time_s: float | None
    tokens_per_s: float | None
    mfu: float | None
    memory_bytes: float | None


def number(event: Event, key: str) -> float | None:
    """Return a finite number from an event's data, or None where there is none."""
    value = event.data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def step_points(events: Iterable[Event]) -> tuple[StepPoint, ...]:
    """Return the completed steps in the order they were made, one point a step and generation.

    Of several ranks that report the same step, the first one's report is taken.
    """
    events = tuple(events)
    loaded = {
        (event.attempt, event.generation): int(number(event, "step") or 0)
        for event in events
        if event.kind is EventKind.CHECKPOINT_LOADED
    }
    points: list[StepPoint] = []
    seen: set[tuple[Generation, int]] = set()
    reached = 0  # the highest step that an earlier generation completed
    for event in sorted(_steps_of(events), key=lambda event: (event.attempt, event.generation, event.time)):
        step, generation = int(event.data["step"]), (event.attempt, event.generation)
        if (generation, step) in seen:
            continue
        seen.add((generation, step))
        same = bool(points) and points[-1].generation == generation
        if not same:
            reached = max((point.step for point in points), default=0)
        before = points[-1].step if same else loaded.get(generation, step - 1)
        points.append(_point(event, count=max(1, step - before), redone=step <= reached))
    return tuple(points)


def _steps_of(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.kind is EventKind.STEP and number(event, "step") is not None]


def _point(event: Event, *, count: int, redone: bool) -> StepPoint:
    return StepPoint(
        step=int(event.data["step"]),
        time=event.time,
        generation=(event.attempt, event.generation),
        count=count,
        redone=redone,
        loss=number(event, "loss"),
        step_time_s=number(event, "step_time_s"),
        tokens_per_s=number(event, "tokens_per_s"),
        mfu=number(event, "mfu"),
        memory_bytes=number(event, "memory_bytes"),
    )


def curve(points: Sequence[StepPoint]) -> tuple[StepPoint, ...]:
    """Return every step once, in order; of a step that was made twice, the later report counts."""
    latest = {point.step: point for point in points}
    return tuple(latest[step] for step in sorted(latest))


def redone_steps(points: Sequence[StepPoint]) -> int:
    """Return how many steps were made again after a fault."""
    return sum(point.count for point in points if point.redone)


def median_of(points: Sequence[StepPoint], field: str) -> float | None:
    """Return the median of a field over all steps but each generation's first, which pays for warming up."""
    first = {point.generation: point for point in reversed(points)}
    settled = [point for point in points if point is not first[point.generation]] or list(points)
    values = [value for point in settled if (value := getattr(point, field)) is not None]
    return median(values) if values else None


def peak_memory(events: Iterable[Event]) -> float | None:
    """Return the most bytes that any one worker reported."""
    values = [value for event in _steps_of(events) if (value := number(event, "memory_bytes")) is not None]
    return max(values, default=None)


def validation_curve(events: Iterable[Event]) -> tuple[tuple[int, float], ...]:
    """Return (step, validation loss) in order, each step once; the later report counts."""
    losses = {}
    for event in sorted(events, key=lambda event: (event.attempt, event.generation, event.time)):
        step, loss = number(event, "step"), number(event, "loss")
        if event.kind is EventKind.VALIDATION and step is not None and loss is not None:
            losses[int(step)] = loss
    return tuple(sorted(losses.items()))
