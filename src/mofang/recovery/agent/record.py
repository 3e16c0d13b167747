"""What the coordinator wants recorded, and what it is told of what an earlier one recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mofang.domain.events import EventKind
from mofang.recovery.agent.failures import End, Failure
from mofang.recovery.agent.membership import Seats

__all__ = ["History", "Note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """An event to record."""

    kind: EventKind
    generation: int
    data: Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class History:
    """What an earlier agent recorded.

    The newest generation and who takes part in it, how generations failed, and how the attempt was to end.
    """

    generation: int = 0
    started: int = 0  # the newest generation whose workers all started
    failures: list[Failure] = field(default_factory=list)
    ended: End | None = None
    seats: Seats | None = None  # of the newest generation; None: as planned
    excluded: set[int] = field(default_factory=set)
