"""Losses that go wrong: seen, and what was learned from while it did left out on the way back. Pure.

A loss that is not a number ends every training; one far above its recent past often does. Going back a little and
leaving out the data of the steps around it is what large runs do (PaLM, arXiv:2204.02311, section 5.1).
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Guard", "Skips", "Trouble", "TroubleKind", "steps_back"]

_WINDOW = 64
_FEWEST = 32
_LOSS_SCORE = 10.0  # robust standard deviations above the median
_NORM_SCORE = 15.0  # of the logarithm: norms have a heavy tail
_LOSS_FLOOR = 0.01  # of the median: the least standard deviation that is believed
_NORM_FLOOR = 0.15
_NORMAL_MAD = 1.4826  # standard deviation of a normal distribution by its median absolute deviation


class TroubleKind(StrEnum):
    """What is wrong with a step."""

    NOT_FINITE = "not-finite"
    SPIKE = "spike"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One step that went wrong. ``score``: how many robust standard deviations; infinite where it is no number."""

    kind: TroubleKind
    score: float
    message: str


class Guard:
    """Judges the loss and the gradient norm of every step against those of the steps before it."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._norms: deque[float] = deque(maxlen=_WINDOW)
        self._in_spike = False

    def judge(self, step: int, loss: float, norm: float) -> Trouble | None:
        """Return what is wrong with a step; of a spike that lasts, only its first step is.

        Args:
            step: for the message.
            loss: mean over all ranks.
            norm: of the gradient, before it is clipped.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"the loss of step {step} is {loss}" if not math.isfinite(loss) else f"its gradient norm is {norm}"
            message = what if what.startswith("the") else f"the loss of step {step} is {loss:.4g} but {what}"
            return Trouble(kind=TroubleKind.NOT_FINITE, score=math.inf, message=message)
        trouble = self._spike(step, loss, norm)
        self._losses.append(loss)
        self._norms.append(math.log(max(norm, 1e-30)))
        begins = trouble is not None and not self._in_spike
        self._in_spike = trouble is not None
        return trouble if begins else None

    def forget(self) -> None:
        """Begin anew, after going back: what was seen since is not the past any more."""
        self._losses.clear()
        self._norms.clear()
        self._in_spike = False

    def _spike(self, step: int, loss: float, norm: float) -> Trouble | None:
        if len(self._losses) < _FEWEST:
            return None
        by_loss, usual = _score(self._losses, loss, _LOSS_FLOOR, relative=True)
        by_norm, usual_norm = _score(self._norms, math.log(max(norm, 1e-30)), _NORM_FLOOR, relative=False)
        if by_loss >= _LOSS_SCORE:
            message = f"the loss of step {step} is {loss:.4g}, {usual:.4g} was usual"
            return Trouble(kind=TroubleKind.SPIKE, score=by_loss, message=message)
        if by_norm >= _NORM_SCORE:
            message = f"the gradient norm of step {step} is {norm:.4g}, {math.exp(usual_norm):.4g} was usual"
            return Trouble(kind=TroubleKind.SPIKE, score=by_norm, message=message)
        return None


def _score(values: Iterable[float], value: float, floor: float, *, relative: bool) -> tuple[float, float]:
    """Return how many robust standard deviations a value lies above the median, and the median."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    deviations = sorted(abs(one - middle) for one in ordered)
    least = floor * abs(middle) if relative else floor
    spread = max(_NORMAL_MAD * deviations[len(deviations) // 2], least, 1e-12)
    return (value - middle) / spread, middle


def steps_back(count: int) -> int:
    """Return how many steps' data the ``count``-th going back leaves out: twice as many every time.

    The state it begins from must be at least one less of steps old: what came before may already hold the trouble.
    """
    return int(2 ** (count - 1))


class Skips:
    """Which data a training leaves out: the data of step n is the n-th that is not left out.

    Args:
        left_out: indices of steps' data, in an order without them.
    """

    def __init__(self, left_out: Iterable[int] = ()) -> None:
        self._left_out = sorted(left_out)

    @property
    def left_out(self) -> list[int]:
        """The indices, rising: JSON values for the state."""
        return list(self._left_out)

    def index(self, step: int) -> int:
        """Return whose data a step is given, counted from 0 as steps are."""
        for skipped in self._left_out:
            if skipped > step:
                break
            step += 1
        return step

    def leave_out(self, step: int, count: int = 1) -> list[int]:
        """Leave out the data of the last ``count`` steps up to ``step``; return their indices."""
        found = [self.index(one) for one in range(max(0, step - count + 1), step + 1)]
        for index in found:
            insort(self._left_out, index)
        return found
