"""What a decision says: which jobs start where, and why each of the others waits."""

from __future__ import annotations

from dataclasses import dataclass

from mofang.domain.job import Allocation
from mofang.domain.reasons import Reason

__all__ = ["Decision", "Start", "Wait"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A job starts with its plan of this index on these devices."""

    job_id: str
    plan_index: int
    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A job waits. ``position`` counts the waiting jobs from 1; ``blockers`` are jobs that hold what it needs."""

    job_id: str
    reason: Reason
    message: str
    position: int
    blockers: tuple[str, ...] = ()
    expected_start: float | None = None  # seconds since the epoch; None: nobody knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Every waiting job either starts or waits with a reason."""

    starts: tuple[Start, ...]
    waits: tuple[Wait, ...]
