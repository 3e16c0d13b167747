"""What earlier agents of an attempt recorded, read back from their spool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mofang.domain.events import Event, EventKind
from mofang.domain.reasons import Reason
from mofang.recovery.agent.failures import End, Failure
from mofang.recovery.agent.membership import read_seats
from mofang.recovery.agent.record import History
from mofang.recovery.rundir import AttemptDir, read_number
from mofang.recovery.spool import read_spool

__all__ = ["Past", "recall"]

_ENDS = {Reason.COMPLETED, Reason.STOPPED_BY_USER}


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """``exits``: the worker exits on record, as (generation, rank)."""

    history: History
    exits: frozenset[tuple[int, int]]


def recall(directory: AttemptDir, node: int) -> Past:
    """Return what the earlier agents of this node recorded; nothing where this is the first."""
    generation = read_number(directory.generation) or 0
    history = History(generation=generation, seats=read_seats(directory, generation))
    exits = set()
    for event in _events(directory.agent_spool(node)):
        match event.kind:
            case EventKind.WORKER_EXITED:
                exits.add((event.generation, int(event.data["rank"])))
            case EventKind.GENERATION_STARTED:
                history.started = event.generation
            case EventKind.GENERATION_ENDED | EventKind.OUTCOME:
                _note_end(history, event)
    return Past(history=history, exits=frozenset(exits))


def _events(path: Path) -> list[Event]:
    events: list[Event] = []
    offset = 0
    while True:
        page = read_spool(path, offset)
        if page.offset == offset:
            return events
        events += page.events
        offset = page.offset


def _note_end(history: History, event: Event) -> None:
    reason, message = Reason(event.data["reason"]), str(event.data["message"])
    if reason is Reason.RESIZED:
        return  # nothing failed
    if event.kind is EventKind.OUTCOME or reason in _ENDS:
        history.ended = End(reason=reason, message=message)
        return
    history.excluded = set(event.data.get("excluded", ()))
    history.failures.append(
        Failure(
            generation=event.generation,
            reason=reason,
            message=message,
            signature=str(event.data["signature"]),
            step=event.data["step"],
            seconds=float(event.data["seconds"]),
        )
    )
