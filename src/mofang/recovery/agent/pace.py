"""How long a training step may take before it is a hang, learned from the steps before it. Pure.

The times between steps of one rank are about log-normal, with rare pauses (garbage collection, a slow batch, a busy
disk) several times as long. The limit is the largest of three: a floor; the median times a factor that grows with the
measured spread, which covers a pause that was never seen before; and a multiple of the longest pause that was.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

__all__ = ["StepTimes"]

FLOOR_S = 5.0  # a machine under load may stop any process for seconds
_WARM_UP = 3  # the first steps of a generation allocate, compile and connect
_FEWEST = 8
_WINDOW = 256  # intervals: long enough for a pause in a hundred steps, short enough to follow a drift
_PAUSE = 6.0  # times the median: a pause that was never seen before
_SPREADS = 4.0  # standard deviations of the logarithm on top of it
_LONGEST = 3.0  # times the longest interval in the window
_NORMAL_MAD = 1.4826  # standard deviation of a normal distribution by its median absolute deviation


@dataclass(slots=True)
class StepTimes:
    """The times between steps of one rank, over all generations of the same size."""

    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _seen: int = 0
    _limit: float | None = None

    def restart(self) -> None:
        """Take in that another generation begins: its first steps say nothing, what was learned before still holds."""
        self._seen = 0

    def note(self, seconds: float, steps: int = 1) -> None:
        """Take in the time between two heartbeats of the phase ``train``, ``steps`` steps apart."""
        self._seen += steps
        if self._seen <= _WARM_UP or steps < 1 or seconds <= 0.0:
            return
        self._seconds.append(seconds / steps)
        self._limit = None

    def limit(self, at_most: float, patience: float = 1.0) -> float | None:
        """Return after how many seconds without a step there is a hang; None: too few steps were seen to say.

        Args:
            at_most: seconds; whatever was learned, more is a hang.
            patience: times what was learned; more than 1 where it was wrong before.
        """
        if len(self._seconds) < _FEWEST:
            return None
        if self._limit is None:
            self._limit = self._learned()
        return min(at_most, max(FLOOR_S, self._limit) * patience)

    def _learned(self) -> float:
        middle = _median(self._seconds)
        spread = _NORMAL_MAD * _median([abs(math.log(seconds / middle)) for seconds in self._seconds])
        return max(_PAUSE * math.exp(_SPREADS * spread) * middle, _LONGEST * max(self._seconds))


def _median(values: deque[float] | list[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2.0
