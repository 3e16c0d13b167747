"""What a plan is predicted to do, how sure that is, and from what it follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Estimate", "Evidence", "Interval"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The range that is to hold 90 % of outcomes."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One thing the estimate rests on: a measured rate, a catalogue figure, an assumption."""

    what: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A prediction. Seconds, bytes, joules; ``tokens_per_s`` is for the whole job; ``mfu`` is a fraction of peak.

    ``time`` splits ``step_time_s`` (compute, attention, memory, optimizer, communication, overhead), ``memory`` splits
    ``memory_bytes`` of the fullest device or, for cores, of one worker.
    """

    step_time_s: float
    step_time_90: Interval
    tokens_per_s: float
    mfu: float
    memory_bytes: float
    peak_flops: float  # of all devices together in the plan's precision: what ``mfu`` is measured against
    total_time_s: float
    time: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    energy_j: float | None = None  # None: unknown
    cost: float | None = None  # None: unknown, never zero
    evidence: tuple[Evidence, ...] = ()
