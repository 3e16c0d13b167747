"""Timing small pieces of work fairly: warm, repeated, in step with the other workers.

What is kept is the median, and how far the repeats lie apart beside it: a training step is made of ordinary repeats,
not of the luckiest.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from mofang.clock import Clock

__all__ = ["Sample", "Timer"]

_FEWEST, _MOST, _TOGETHER = 3, 60, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Median seconds of one call, and the interquartile range of the calls over that median."""

    seconds: float
    spread: float


class Timer:
    """Times a call again and again within a budget, while every other worker of the team does the same.

    Args:
        clock: where time comes from.
        device: ``cpu`` or ``cuda``; on the latter each call is waited for.
        budget_s: about how long one measurement may take.
        longest_s: calls that take longer than this are made twice, and no more.
    """

    def __init__(self, clock: Clock, *, device: str, budget_s: float, longest_s: float) -> None:
        self.clock = clock
        self.device = device
        self.budget_s = budget_s
        self.longest_s = longest_s

    def once(self, call: Callable[[], object]) -> float:
        """Return the seconds of one call."""
        start = self.clock.monotonic()
        call()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return self.clock.monotonic() - start

    def measure(self, call: Callable[[], object]) -> Sample:
        """Return the median of the repeats; of the slowest worker where several run at once.

        Each worker repeats as often as it finds time for, so ``call`` must not wait for another worker.
        """
        self._agree(self.once(call))
        times: list[float] = []
        while self._goes_on(times):
            times.append(self.once(call))
        return self._sample(times)

    def measure_together(self, call: Callable[[], object]) -> Sample:
        """Return the same for a call that all workers make together: each makes it equally often."""
        self._agree(self.once(call))
        return self._sample([self.once(call) for _ in range(_TOGETHER)])

    def _sample(self, times: list[float]) -> Sample:
        if len(times) < _FEWEST:
            return Sample(seconds=self._agree(min(times)), spread=0.0)
        low, middle, high = statistics.quantiles(times, n=4)
        return Sample(seconds=self._agree(middle), spread=(high - low) / middle)

    def _goes_on(self, times: list[float]) -> bool:
        """Whether another repeat is wanted; one long call may have been interrupted, two mean that it is long."""
        if len(times) >= _FEWEST - 1 and min(times) > self.longest_s:
            return False
        return len(times) < _FEWEST or (sum(times) < self.budget_s and len(times) < _MOST)

    def _agree(self, seconds: float) -> float:
        """Return the largest value over all workers; it is also the barrier that keeps them in step."""
        if not dist.is_initialized():
            return seconds
        value = torch.tensor([seconds], dtype=torch.float64)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return float(value.item())
