"""Looking for silent corruption: ranks that must hold the same weights compare their sums now and then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import distributed

from mofang.clock import Clock
from mofang.recovery.checkpoint.state import Part
from mofang.recovery.checksum import checksum, odd_ones
from mofang.recovery.worker import Worker

__all__ = ["Comparison"]

_SHARE = 0.001  # of the training time, at most
_FEWEST = 10  # steps from one to the next
_NS = 1e9


@dataclass(slots=True, kw_only=True)
class Comparison:
    """When this rank compares, and what was found.

    Attributes:
        good: the last step whose weights were alike on all ranks: what was kept since may be corrupt.
        step_s: seconds a step takes, by which the next comparison is placed.
    """

    parts: Mapping[str, Part]
    worker: Worker
    clock: Clock
    good: int = 0
    step_s: float = 0.0
    _next: int = 0
    _looked_at: int = field(default=-1)

    @property
    def possible(self) -> bool:
        """Whether other ranks hold the same weights."""
        return self.worker.world_size > 1 and all(part.replicated for part in self.parts.values())

    def begin(self, step: int) -> None:
        """Take in that training goes on from the verified state of a step."""
        self.good, self._next, self._looked_at = step, step + 1, -1

    def due(self, step: int) -> bool:
        """Return whether it is time, alike on all ranks."""
        return self.possible and step >= self._next

    def look(self, step: int) -> list[int]:
        """Compare, once a step; collective. Return the ranks that differ from most; all where there is no majority."""
        if not self.possible or step == self._looked_at:
            return []
        self._looked_at = step
        started = self.clock.monotonic()
        own = checksum(part.tensor for part in self.parts.values())
        cost = self.clock.monotonic() - started
        rows = torch.zeros((self.worker.world_size, 3), dtype=torch.int64)
        rows[self.worker.rank] = torch.tensor([own, int(cost * _NS), int(self.step_s * _NS)])
        distributed.all_reduce(rows)
        sums, costs, times = rows.T.tolist()
        self._next = step + max(_FEWEST, math.ceil(max(costs) / (_SHARE * max(1, *times))))
        if len(set(sums)) == 1:
            self.good = step
            return []
        return odd_ones(sums)
