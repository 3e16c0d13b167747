"""Faults and what followed: noticed, restarted, loaded, stepping again, caught up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mofang.domain.events import Event, EventKind
from mofang.domain.reasons import Reason
from mofang.report.steps import StepPoint, step_points

__all__ = ["Recovery", "failed_rank", "recoveries"]

_PEACEFUL = {Reason.COMPLETED, Reason.STOPPED_BY_USER}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One fault and the way back. Times in seconds since the epoch; None: it never came to that.

    ``generation`` is the (attempt, generation) that failed, ``step`` the last one that it completed. ``failures``
    counts the generations that failed before one completed a step; ``reason`` is the cause as the agent settled it.
    ``resumed_at`` is the next completed step or, of a service, when it answers again, and of a program that reports no
    steps, its next start.
    """

    what: str
    fault_at: float
    generation: tuple[int, int]
    step: int
    failures: int = 1
    reason: str = ""
    detected_at: float | None = None
    restarted_at: float | None = None
    loaded_at: float | None = None
    loaded_step: int | None = None
    loaded_from: str = ""  # memory, peer or disk
    resumed_at: float | None = None
    caught_up_at: float | None = None

    @property
    def seconds(self) -> float | None:
        """Seconds from the fault until the job went on."""
        return None if self.resumed_at is None else max(0.0, self.resumed_at - self.fault_at)

    @property
    def cost_s(self) -> float | None:
        """Seconds from the fault until the job was where it had been."""
        return None if self.caught_up_at is None else max(0.0, self.caught_up_at - self.fault_at)


def recoveries(events: Iterable[Event]) -> tuple[Recovery, ...]:
    """Return every fault in order, with what followed.

    A worker that ends because its job completed, or because someone stopped it, is no fault. Generations that fail
    before they complete a step belong to the fault that is being recovered from.
    """
    ordered = sorted(events, key=lambda event: event.time)
    points = step_points(ordered)
    found: list[Recovery] = []
    current: tuple[int, int] = (0, 0)
    faulty: tuple[int, int] = (0, 0)  # the newest generation known to have failed
    stepped = (0, 0)  # the newest generation that completed a step
    for event in ordered:
        if event.kind is EventKind.STOP_REQUESTED:
            break
        current = max(current, (event.attempt, event.generation))
        if event.kind is EventKind.STEP:
            stepped = max(stepped, (event.attempt, event.generation))
        elif current > faulty and _is_fault(event):
            if found and points and stepped <= faulty:
                found[-1] = replace(found[-1], failures=found[-1].failures + 1)
            else:
                found.append(_opened(event, current, points))
            faulty = current
    ends = [*(recovery.fault_at for recovery in found[1:]), float("inf")]
    return tuple(_followed(recovery, end, ordered, points) for recovery, end in zip(found, ends, strict=False))


def failed_rank(events: Iterable[Event]) -> int:
    """Return the rank whose failure ended the last generation that failed; 0 where none did.

    It is the first to fail in its generation: the others are killed because of it.
    """
    first: dict[tuple[int, int], int] = {}
    for event in events:
        rank = event.data.get("rank")
        if event.kind is not EventKind.FAULT_INJECTED and _is_fault(event) and isinstance(rank, int):
            first.setdefault((event.attempt, event.generation), rank)
    return first[max(first)] if first else 0


def _is_fault(event: Event) -> bool:
    data = event.data
    if event.kind in {EventKind.FAULT_INJECTED, EventKind.HANG_DETECTED}:
        return True
    if event.kind is EventKind.WORKER_EXITED:
        return bool(data.get("signal")) or data.get("exit_code") not in {0, None}
    if event.kind in {EventKind.GENERATION_ENDED, EventKind.ATTEMPT_ENDED}:
        return data.get("reason") not in {None, *_PEACEFUL}
    return False


def _opened(event: Event, generation: tuple[int, int], points: Sequence[StepPoint]) -> Recovery:
    step = max((point.step for point in points if point.generation <= generation), default=0)
    silent = float(event.data.get("silent_s") or 0.0) if event.kind is EventKind.HANG_DETECTED else 0.0
    what = _what(event.kind, event.data)
    return Recovery(what=what, fault_at=event.time - silent, generation=generation, step=step)


def _what(kind: EventKind, data: Any) -> str:
    rank = data.get("rank", "?")
    if kind is EventKind.FAULT_INJECTED:
        return f"worker {rank}: {data.get('what', 'fault injected')}"
    if kind is EventKind.HANG_DETECTED:
        return f"worker {rank} hung"
    if kind is EventKind.WORKER_EXITED:
        how = f"killed by signal {data['signal']}" if data.get("signal") else f"exit code {data.get('exit_code')}"
        return f"worker {rank}: {how}"
    return str(data.get("message") or data.get("reason"))


def _followed(recovery: Recovery, end: float, events: Sequence[Event], points: Sequence[StepPoint]) -> Recovery:
    after = [event for event in events if recovery.fault_at <= event.time < end]
    # A survivor may complete one more step: only workers that were started after the fault show the way back.
    made = [point for point in points if point.generation > recovery.generation and point.time < end]
    until = made[0].time if made else end
    started = [event.time for event in after if event.kind is EventKind.GENERATION_STARTED and event.time <= until]
    serves = any(event.kind is EventKind.SERVING for event in events)
    answering = [event.time for event in after if event.kind is EventKind.SERVING] if serves else started
    resumed = [point.time for point in made] if points else answering
    loaded = [event for event in after if event.kind is EventKind.CHECKPOINT_LOADED and event.time <= until]
    settled = [event for event in after if event.kind is EventKind.GENERATION_ENDED and _is_fault(event)]
    noticed = [event.time for event in after if event.kind is not EventKind.FAULT_INJECTED and _is_fault(event)]
    return replace(
        recovery,
        reason=str(settled[0].data.get("reason", "")) if settled else "",
        detected_at=noticed[0] if noticed else None,
        restarted_at=started[-1] if started else None,
        loaded_at=max((event.time for event in loaded), default=None),
        loaded_step=int(loaded[-1].data.get("step", 0)) if loaded else None,
        loaded_from=str(loaded[-1].data.get("tier", "")) if loaded else "",
        resumed_at=resumed[0] if resumed else None,
        caught_up_at=next((point.time for point in made if point.step >= recovery.step), None),
    )
