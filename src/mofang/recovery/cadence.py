"""When a snapshot is due. Pure: it is told the time and what snapshots cost; no I/O, no torch.

Two kinds of reasons are kept apart. What follows from the step's number alone is known to every rank (``due``). What
follows from a clock, from a measured time or from somebody's wish differs between ranks (``wants``): they have to agree
on it before all of them take a snapshot of the same step.

The interval between snapshots is Young's and Daly's with a predictor, T* = sqrt(2 M C / (1 - r)), for snapshots that
stall training for C seconds, a fault every M seconds, and a part r of the faults announced in time (Young,
doi:10.1145/361147.361115; Aupy, Robert, Vivien, doi:10.1016/j.jpdc.2013.10.010).
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta

from mofang.errors import UnitError, UsageError
from mofang.units import parse_duration

__all__ = ["LONGEST_S", "MOST_STALLED", "Cadence", "Every", "interval", "parse_every", "young_daly"]

MOST_STALLED = 0.01  # of the time, where the interval is chosen here
LONGEST_S = 60.0  # between two snapshots in memory, however rare faults are said to be: predictions may be wrong
_MOST_ANNOUNCED = 0.99  # no predictor makes unannounced faults vanish
_REMEMBERED = 9  # measurements that a median is taken of


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """How often: each so many steps, each so many seconds, or, with neither, as it pays."""

    steps: int | None = None
    seconds: float | None = None


def parse_every(value: int | str | timedelta | Every) -> Every:
    """Return what people write: ``100`` (steps), ``"10m"``, a ``timedelta``, or ``"auto"``.

    Raises:
        UsageError: it is none of these, or not above zero.
    """
    if isinstance(value, Every):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        every = Every(steps=value)
    elif isinstance(value, timedelta):
        every = Every(seconds=value.total_seconds())
    elif value == "auto":
        return Every()
    else:
        every = Every(seconds=_duration(value))
    if (every.steps or every.seconds or 0) <= 0:
        raise UsageError(f"every={value!r} is not above zero", hint='write every=100 (steps), every="10m" or "auto"')
    return every


def _duration(value: object) -> float:
    try:
        return parse_duration(value if isinstance(value, str) else "")
    except UnitError as error:
        raise UsageError(
            f"every={value!r} is no interval", hint='write every=100 (steps), every="10m" or every="auto"'
        ) from error


def young_daly(stall_s: float, hazard_per_s: float, recall: float = 0.0) -> float:
    """Return the interval in seconds that loses the least time to stalls and faults together, to first order.

    Args:
        stall_s: seconds that training stands still for a snapshot.
        hazard_per_s: faults a second that this job is expected to see.
        recall: part of the faults that is announced in time for a snapshot of its own.
    """
    if hazard_per_s <= 0.0:
        return math.inf
    return math.sqrt(2.0 * stall_s / hazard_per_s / (1.0 - min(max(recall, 0.0), _MOST_ANNOUNCED)))


def interval(stall_s: float, hazard_per_s: float, recall: float = 0.0, longest_s: float = LONGEST_S) -> float:
    """Return the seconds between snapshots: the optimum, at most ``longest_s``, but stalls under 1 % of the time."""
    return max(stall_s / MOST_STALLED, min(young_daly(stall_s, hazard_per_s, recall), longest_s))


@dataclass(slots=True)
class _Median:
    values: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def add(self, value: float) -> None:
        self.values.append(max(value, 0.0))

    @property
    def value(self) -> float | None:
        return statistics.median(self.values) if self.values else None


class Cadence:
    """Says when the next snapshot is due; one for each tier.

    Times are seconds of any clock that does not go back.

    Args:
        every: how often.
        longest_s: the most seconds between snapshots where ``every`` leaves the choice open.
    """

    def __init__(self, every: Every, *, longest_s: float = LONGEST_S) -> None:
        self.every = every
        self.hazard_per_s = 0.0
        self.recall = 0.0
        self._longest_s = longest_s
        self._stalls, self._steps = _Median(), _Median()
        self._wished = False
        self._last_step = self._last_at = self._stepped_at = math.nan

    def start(self, step: int, now: float) -> None:
        """Begin to count: after a restore, or at the first step."""
        self._last_step, self._last_at, self._stepped_at = step, now, now

    def stepped(self, now: float) -> None:
        """Note that a step has ended, to know how long steps are."""
        self._steps.add(now - self._stepped_at)
        self._stepped_at = now

    def expect(self, hazard_per_s: float, recall: float = 0.0) -> None:
        """Take over a predicted hazard: it shortens or lengthens the interval from now on."""
        self.hazard_per_s, self.recall = hazard_per_s, recall

    def wish(self) -> None:
        """Ask for a snapshot at the next chance: something is about to fail, or the program to stop."""
        self._wished = True

    def taken(self, step: int, now: float, stall_s: float) -> None:
        """Note that a snapshot was taken and how long it stalled training; ``now`` is when it was done."""
        self._stalls.add(stall_s)
        self._wished = False
        self._last_step, self._last_at, self._stepped_at = step, now, now

    @property
    def interval_s(self) -> float | None:
        """Seconds between snapshots; None where steps are counted, or no snapshot has been measured yet."""
        if self.every.seconds is not None:
            return self.every.seconds
        stall = self._stalls.value
        if self.every.steps is not None or stall is None:
            return None
        return interval(stall, self.hazard_per_s, self.recall, self._longest_s)

    @property
    def stall_s(self) -> float | None:
        """The median stall of the last snapshots, in seconds."""
        return self._stalls.value

    @property
    def step_s(self) -> float | None:
        """The median length of the last steps, in seconds."""
        return self._steps.value

    def due(self, step: int) -> bool:
        """Return whether the number of finished steps alone says so; the same on every rank."""
        return self.every.steps is not None and step % self.every.steps == 0 and step != self._last_step

    def wants(self, step: int, now: float) -> bool:
        """Return whether this rank wishes for a snapshot after ``step`` steps; ranks must agree before they act on it.

        Where the interval is chosen here, the first step's end is snapshotted, so that there is something to go back to
        and the stall becomes known. After that it is taken at the end of the step that comes nearest to the interval.
        """
        if step == self._last_step:
            return False  # nothing new since the last one
        if self._wished:
            return True
        if self.every.steps is not None:
            return False
        wait = self.interval_s
        if wait is None:
            return True
        elapsed, stall = now - self._last_at, self._stalls.value or 0.0
        shortest = 0.0 if self.every.seconds is not None else stall / MOST_STALLED
        return elapsed >= shortest and elapsed + (self._steps.value or 0.0) / 2.0 >= wait
