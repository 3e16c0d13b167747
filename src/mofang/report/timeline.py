"""Where a job's time went: every second belongs to one activity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise, zip_longest

from mofang.domain.events import Event, EventKind
from mofang.report.recoveries import Recovery, recoveries
from mofang.report.steps import StepPoint, number, step_points

__all__ = ["Activity", "Span", "partition", "shares", "spans"]


class Activity(StrEnum):
    """What a job spends time on. Where several overlap, the first in this list counts."""

    DETECTION = "detection"  # from a fault until it was noticed
    RESTART = "restart"  # from there to the start of the next step
    REDONE = "redone"  # steps that were made before and lost
    COMPUTE = "compute"
    SNAPSHOT = "snapshot"  # copying the state in memory, between two steps
    EVALUATION = "evaluation"  # validation and the sample
    CHECKPOINT = "checkpoint"  # what is not hidden behind steps
    START = "start"  # launching, reading data, building the model
    OTHER = "other"


_RANK = {activity: rank for rank, activity in enumerate(Activity)}
_EVALUATION = {"validate", "sample"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time in seconds since the epoch, and what it was spent on."""

    activity: Activity
    start: float
    end: float


def spans(events: Sequence[Event]) -> tuple[Span, ...]:
    """Return what a job's events say of its time, overlaps and all."""
    points, found = step_points(events), recoveries(events)
    if not events:
        return ()
    begin = min(event.time for event in events)
    end = max(event.time for event in events)
    first = _begins(points[0]) if points else end
    made = [
        Span(activity=Activity.START, start=begin, end=max(begin, first)),
        *(_step_spans(points) if points else _program_spans(events, end)),
        *_recovery_spans(found, points, end),
        *_evaluation_spans(events),
        *_checkpoint_spans(events),
        *_snapshot_spans(events, points),
    ]
    return tuple(span for span in made if span.end > span.start)


def _program_spans(events: Sequence[Event], end: float) -> Iterable[Span]:
    """Yield the lives of the generations of a program that reports no steps."""
    edges = (EventKind.GENERATION_STARTED, EventKind.GENERATION_ENDED)
    marks = sorted((event for event in events if event.kind in edges), key=lambda event: event.time)
    for mark, following in zip_longest(marks, marks[1:]):
        if mark.kind is EventKind.GENERATION_STARTED:
            until = end if following is None else following.time
            yield Span(activity=Activity.COMPUTE, start=mark.time, end=until)


def _begins(point: StepPoint) -> float:
    return point.time - (point.step_time_s or 0.0) * point.count


def _step_spans(points: Sequence[StepPoint]) -> Iterable[Span]:
    before: StepPoint | None = None
    for point in points:
        floor = before.time if before is not None and before.generation == point.generation else float("-inf")
        activity = Activity.REDONE if point.redone else Activity.COMPUTE
        yield Span(activity=activity, start=max(floor, _begins(point)), end=point.time)
        before = point


def _recovery_spans(found: Sequence[Recovery], points: Sequence[StepPoint], end: float) -> Iterable[Span]:
    begins = {point.time: _begins(point) for point in points}
    for recovery in found:
        until = end if recovery.resumed_at is None else begins.get(recovery.resumed_at, recovery.resumed_at)
        noticed = min(recovery.detected_at or recovery.fault_at, until)
        yield Span(activity=Activity.DETECTION, start=recovery.fault_at, end=noticed)
        yield Span(activity=Activity.RESTART, start=noticed, end=until)


def _evaluation_spans(events: Sequence[Event]) -> Iterable[Span]:
    """Yield from each phase that evaluates to the next report of the same worker."""
    open_since: dict[tuple[int, int, str], float] = {}
    for event in sorted(events, key=lambda event: event.time):
        worker = (event.attempt, event.generation, event.source)
        if worker in open_since:
            yield Span(activity=Activity.EVALUATION, start=open_since.pop(worker), end=event.time)
        if event.kind is EventKind.PHASE and event.data.get("name") in _EVALUATION:
            open_since[worker] = event.time


def _checkpoint_spans(events: Iterable[Event]) -> Iterable[Span]:
    for event in events:
        seconds = number(event, "seconds")
        if event.kind is EventKind.CHECKPOINT_SAVED and seconds is not None:
            yield Span(activity=Activity.CHECKPOINT, start=event.time - seconds, end=event.time)


def _snapshot_spans(events: Iterable[Event], points: Sequence[StepPoint]) -> Iterable[Span]:
    """Share each generation's stalls among the gaps between its steps: reports of snapshots are sums of many."""
    stalls: dict[tuple[int, int], float] = {}
    for event in events:
        if event.kind is EventKind.SNAPSHOT and event.source.endswith("0000"):
            key = (event.attempt, event.generation)
            stalls[key] = stalls.get(key, 0.0) + (number(event, "stall_s") or 0.0)
    for generation, stall in stalls.items():
        made = [point for point in points if point.generation == generation]
        gaps = [(before.time, max(before.time, _begins(point))) for before, point in pairwise(made)]
        whole = sum(end - start for start, end in gaps)
        share = min(1.0, stall / whole) if whole > 0 else 0.0
        for start, end in gaps:
            yield Span(activity=Activity.SNAPSHOT, start=start, end=start + share * (end - start))


def partition(found: Sequence[Span], start: float, end: float) -> tuple[Span, ...]:
    """Cut ``start..end`` into adjoining spans, each with the activity of the highest rank there."""
    edges = sorted({start, end, *(edge for span in found for edge in (span.start, span.end) if start < edge < end)})
    changes: dict[float, list[tuple[Activity, int]]] = {}
    for span in found:
        if span.end > start and span.start < end and span.end > span.start:
            changes.setdefault(max(span.start, start), []).append((span.activity, 1))
            changes.setdefault(min(span.end, end), []).append((span.activity, -1))
    running = dict.fromkeys(Activity, 0)
    pieces: list[Span] = []
    for left, right in pairwise(edges):
        for activity, change in changes.get(left, ()):
            running[activity] += change
        there = min(
            (activity for activity, count in running.items() if count), key=_RANK.__getitem__, default=Activity.OTHER
        )
        if pieces and pieces[-1].activity is there:
            pieces[-1] = Span(activity=there, start=pieces[-1].start, end=right)
        else:
            pieces.append(Span(activity=there, start=left, end=right))
    return tuple(pieces)


def shares(pieces: Sequence[Span]) -> Mapping[Activity, float]:
    """Return the fraction of the time of each activity that occurs, in the order of ``Activity``."""
    total = sum(piece.end - piece.start for piece in pieces)
    seconds = dict.fromkeys(Activity, 0.0)
    for piece in pieces:
        seconds[piece.activity] += piece.end - piece.start
    return {activity: value / total for activity, value in seconds.items() if value > 0 and total > 0}
