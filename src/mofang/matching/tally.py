"""What became of the candidates that are not feasible: how many, why, and which came closest."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mofang.domain.reasons import Reason
from mofang.domain.strategy import Method
from mofang.matching.evaluation import Fit, Unit
from mofang.matching.options import Option

__all__ = ["Closest", "Group", "Tally", "group_of", "some_way"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Group = tuple[int, Method]


def group_of(option: Option, method: Method) -> Group:
    """Return what an option's candidates of one method are counted under."""
    return id(option), method


def some_way(candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return, for each layout of a grid, whether this is so in any way; of a list of candidates, the list."""
    return np.asarray(candidates.any(axis=tuple(range(candidates.ndim - 1))))


@dataclass(slots=True)
class Closest:
    """How many candidates of a group fell for one reason, and the one that came closest."""

    count: int = 0
    value: float = float("inf")
    unit: Unit | None = None
    number: int = -1

    def take(self, unit: Unit, numbers: Ints, values: Floats, count: int) -> None:
        """Count candidates and keep the one of the smallest value, of equal ones that of the smallest number."""
        self.count += count
        if not len(numbers):
            return
        best = float(values.min())
        number = int(numbers[values == best].min())
        if self.unit is None or (best, unit.index, number) < (self.value, self.unit.index, self.number):
            self.value, self.unit, self.number = best, unit, number


@dataclass(slots=True)
class Tally:
    """Closest candidates by option and method, and by reason."""

    device: dict[Group, Closest] = field(default_factory=dict)
    host: dict[Group, Closest] = field(default_factory=dict)
    limits: dict[tuple[Reason, Group], Closest] = field(default_factory=dict)
    smallest: dict[Group, Closest] = field(default_factory=dict)  # feasible, on the fewest devices

    def too_large(self, unit: Unit, numbers: Ints, need: Floats, count: int) -> None:
        """Count ``count`` candidates that device memory does not hold, of which these need least."""
        self.device.setdefault(group_of(unit.option, unit.method), Closest()).take(unit, numbers, need, count)

    def memory(self, unit: Unit, numbers: Ints, fit: Fit) -> None:
        """Count the candidates that do not fit."""
        if fit.fits.all():
            return
        over = fit.over_device
        self.too_large(unit, numbers[over], fit.device_bytes[over], int(np.count_nonzero(over)))
        crowded = ~(fit.fits | over)
        self.host.setdefault(group_of(unit.option, unit.method), Closest()).take(
            unit, numbers[crowded], fit.host_bytes[crowded], int(np.count_nonzero(crowded))
        )

    def limit(self, reason: Reason, unit: Unit, numbers: Ints, values: Floats, beyond: NDArray[np.bool_]) -> None:
        """Count the candidates that exceed a limit of the user's."""
        count = int(np.count_nonzero(beyond))
        if count:
            closest = self.limits.setdefault((reason, group_of(unit.option, unit.method)), Closest())
            closest.take(unit, numbers[beyond], values[beyond], count)

    def feasible(self, unit: Unit, numbers: Ints, devices: Ints, feasible: NDArray[np.bool_]) -> None:
        """Count the feasible candidates, and keep one on the fewest devices (which no way of a layout changes)."""
        closest = self.smallest.setdefault(group_of(unit.option, unit.method), Closest())
        there = devices.ravel()[some_way(feasible)]
        least = float(there.min()) if len(there) else float("inf")
        chosen = numbers[feasible & (devices == least)] if least <= closest.value else numbers.ravel()[:0]
        closest.take(unit, chosen, np.full(len(chosen), least), int(np.count_nonzero(feasible)))

    def refused(self) -> int:
        """Return how many candidates fell."""
        return sum(one.count for group in (self.device, self.host, self.limits) for one in group.values())
