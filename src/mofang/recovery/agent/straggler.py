"""Which rank holds the others back: its own computing time beside that of the others. Pure.

All ranks of a data-parallel job have the same time from step to step, that of the slowest. What tells them apart is the
time that each computes before it waits for the others. Windows of it are compared (machines are compared alike by
FALCON, arXiv:2410.12588, and Minder, arXiv:2411.01791): a rank is slow when its median exceeds the median of the others
by a factor and its distribution lies apart from theirs, several windows in a row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from mofang.domain.reasons import Reason
from mofang.recovery.agent.messages import Pace, Problem

__all__ = ["BusyTimes", "Straggler", "StragglerWatch", "Stragglers", "Window", "straggler_problem"]

RATIO = 1.3
_IN_A_ROW = 3
_OVER = 0.5  # of the excess: a rank that falls below it is no straggler any more
_FEWEST = 5  # samples in a window
_MOST = 64
_WINDOW_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Quartiles of one rank's seconds of computing a step, over some steps up to ``step``."""

    rank: int
    step: int
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """A rank that is slower than the others; ``ratio`` is its median by the median of theirs."""

    rank: int
    ratio: float
    step: int


@dataclass(slots=True)
class BusyTimes:
    """Collects samples of the ranks of one node and cuts them into windows."""

    _samples: dict[int, deque[float]] = field(default_factory=dict)
    _steps: dict[int, int] = field(default_factory=dict)
    _since: float | None = None

    def note(self, rank: int, step: int, busy_s: float) -> None:
        """Take in the computing time of a rank's newest step; the same step counts once."""
        if self._steps.get(rank) != step and busy_s > 0.0:
            self._steps[rank] = step
            self._samples.setdefault(rank, deque(maxlen=_MOST)).append(busy_s)

    def close(self, now: float) -> list[Window]:
        """Return a window of every rank once all of them have enough samples, and begin the next; else nothing.

        Args:
            now: seconds, monotonic.
        """
        if self._since is None:
            self._since = now
        enough = self._samples and min(len(samples) for samples in self._samples.values()) >= _FEWEST
        if not enough or now - self._since < _WINDOW_S:
            return []
        windows = [_window(rank, self._steps[rank], samples) for rank, samples in sorted(self._samples.items())]
        self._since = now
        for samples in self._samples.values():
            samples.clear()
        return windows


def _window(rank: int, step: int, samples: Iterable[float]) -> Window:
    low, median, high = (_quantile(sorted(samples), at) for at in (0.25, 0.5, 0.75))
    return Window(rank=rank, step=step, low=low, median=median, high=high)


class Stragglers:
    """Judges windows of all ranks of a generation.

    Args:
        ranks: how many there are.
        ratio: how much slower than the others' median is too slow.
    """

    def __init__(self, ranks: int, ratio: float = RATIO) -> None:
        self._ranks, self._ratio = ranks, ratio
        self._fresh: dict[int, Window] = {}
        self._slow: dict[int, int] = {}  # windows in a row
        self._told: set[int] = set()

    def take(self, windows: Iterable[Window]) -> list[Straggler]:
        """Take in windows; return the ranks that have been slow for long enough, each once an episode."""
        self._fresh |= {window.rank: window for window in windows}
        if len(self._fresh) < max(2, self._ranks):
            return []
        fresh, self._fresh = self._fresh, {}
        found = (
            self._judge(window, [other for other in fresh.values() if other is not window]) for window in fresh.values()
        )
        return [straggler for straggler in found if straggler is not None]

    def _judge(self, window: Window, others: list[Window]) -> Straggler | None:
        ratio = window.median / _quantile(sorted(other.median for other in others), 0.5)
        apart = window.low > _quantile(sorted(other.high for other in others), 0.5)
        if ratio < 1.0 + (self._ratio - 1.0) * _OVER:
            self._told.discard(window.rank)
        self._slow[window.rank] = self._slow.get(window.rank, 0) + 1 if apart and ratio >= self._ratio else 0
        if self._slow[window.rank] < _IN_A_ROW or window.rank in self._told:
            return None
        self._told.add(window.rank)
        return Straggler(rank=window.rank, ratio=ratio, step=window.step)


class StragglerWatch:
    """Judges the reports of the nodes of an attempt, generation after generation."""

    def __init__(self) -> None:
        self._generation = 0
        self._judge = Stragglers(0)
        self._node_of: dict[int, int] = {}

    def take(self, report: Pace, workers: int) -> list[tuple[Straggler, int]]:
        """Take in the report of one node; return ranks that hold the others back, each with its node.

        Args:
            report: of the running generation.
            workers: how many ranks it has.
        """
        if report.generation != self._generation:
            self._generation, self._judge, self._node_of = report.generation, Stragglers(workers), {}
        windows = [
            Window(rank=int(rank), step=int(step), low=low, median=median, high=high)
            for rank, step, low, median, high in report.rows
        ]
        self._node_of |= {window.rank: report.node for window in windows}
        return [(straggler, self._node_of[straggler.rank]) for straggler in self._judge.take(windows)]


def straggler_problem(straggler: Straggler, node: int, generation: int) -> Problem:
    """Return the problem that has a generation begin again without the straggler's node."""
    return Problem(
        node=node,
        generation=generation,
        reason=str(Reason.STRAGGLER),
        message=f"rank {straggler.rank} computes {straggler.ratio:.2f} times as long as the others",
        signature=f"{Reason.STRAGGLER}/{node}",
        step=straggler.step,
        exclude=True,
    )


def _quantile(ordered: list[float], at: float) -> float:
    """Return a quantile of sorted numbers, linear between them."""
    place = (len(ordered) - 1) * at
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
