"""How faults arrive and how long repairs take: in bursts and with long tails, as fitted to a real trace."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from mofang.clock import Chance

__all__ = ["FaultModel", "packaged_faults"]

MONTH_H = 720.0  # 30 days, the month of the field's fault rates


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultModel:
    """Faults of a cluster that each take one node out of service.

    Intervals between the faults of the whole cluster are gamma distributed: their coefficient of variation
    ``interval_cv`` is over 1 where faults come in bursts, and 1 makes a Poisson process. Repairs are lognormal.
    """

    per_1000_devices_month: float  # faults of 1,000 devices in 30 days
    interval_cv: float
    repair_median_h: float
    repair_mean_h: float
    source: str = ""

    def mean_interval_s(self, devices: int) -> float:
        """Return the mean seconds between two faults of a cluster of so many devices."""
        return MONTH_H * 3600.0 / (self.per_1000_devices_month * devices / 1000.0)

    def arrivals(self, devices: int, chance: Chance) -> Iterator[float]:
        """Yield the seconds at which faults strike, without end.

        The first interval is drawn like all others, so a simulation leaves the beginning out or runs long.
        """
        shape = 1.0 / self.interval_cv**2
        scale = self.mean_interval_s(devices) / shape
        now = 0.0
        while True:
            now += chance.gammavariate(shape, scale)
            yield now

    def repair_s(self, chance: Chance) -> float:
        """Return the seconds until a node that failed is back; the mean and median of a lognormal give its spread."""
        spread = math.sqrt(2.0 * math.log(self.repair_mean_h / self.repair_median_h))
        return 3600.0 * self.repair_median_h * math.exp(spread * chance.gauss(0.0, 1.0))

    def nodes_out(self, devices: int) -> float:
        """Return how many nodes are in repair on average: their rate of faults times the mean repair (Little's law)."""
        return self.repair_mean_h * 3600.0 / self.mean_interval_s(devices)


@cache
def packaged_faults() -> FaultModel:
    """Return the model fitted to the published trace; read once."""
    text = resources.files("mofang.recovery.simulation").joinpath("data/faults.yaml").read_text(encoding="utf-8")
    return FaultModel(**yaml.safe_load(text))
