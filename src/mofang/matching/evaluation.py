"""Candidates with everything that is computed of them, block by block: memory first, then time for what fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.domain.hardware import Pool
from mofang.domain.scenario import Scenario
from mofang.domain.strategy import Method
from mofang.matching.candidates import Candidates
from mofang.matching.correction import correction
from mofang.matching.enumeration import Space
from mofang.matching.estimate import Estimates, estimate
from mofang.matching.memory import host_bytes, memory_parts
from mofang.matching.options import Option
from mofang.matching.totals import Totals, device_limit, node_limit, totals
from mofang.matching.work import Work

__all__ = ["Evaluated", "Fit", "Unit", "evaluate", "fitting"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One option with one framework and method: what is searched in one go. ``index`` breaks ties."""

    index: int
    option: Option
    framework: Framework
    method: Method
    work: Work
    space: Space

    @property
    def pool(self) -> Pool:
        """The option's pool."""
        return self.option.pool

    @property
    def memory_work(self) -> Work:
        """The work whose memory must be had: that of the longest sequence."""
        work = self.work
        return work if work.longest is None else replace(work, sequence=work.longest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Bytes of each candidate on its fullest device and on a node, and whether both are there."""

    device_bytes: Floats
    host_bytes: Floats
    over_device: Mask
    fits: Mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Candidates of one unit with everything that was computed of them; one row a candidate."""

    unit: Unit
    candidates: Candidates
    estimates: Estimates
    factor: Floats  # that measurements put on the step time
    totals: Totals

    @property
    def pool(self) -> Pool:
        """The option's pool."""
        return self.unit.option.pool

    @property
    def memory(self) -> Mapping[str, Floats]:
        """Bytes by part on the fullest device, for the longest sequence."""
        work = self.unit.memory_work
        if work is self.unit.work:
            return self.estimates.memory
        return memory_parts(work, self.pool, self.candidates, self.unit.framework)

    @property
    def memory_bytes(self) -> Floats:
        """All of them together."""
        return sum(self.memory.values(), np.zeros(len(self.candidates)))

    def where(self, rows: slice) -> Evaluated:
        """Return some rows, evaluated again."""
        return evaluate(self.unit, self.candidates.where(rows))

    def busy(self, row: int) -> float:
        """Return the seconds of one row's step in which a device computes."""
        return float(self.factor[row] * self.estimates.busy_s[row])


def fitting(scenario: Scenario, unit: Unit, candidates: Candidates) -> Fit:
    """Return the memory that each candidate needs, and whether it is there."""
    pool, work = unit.pool, unit.memory_work
    parts = memory_parts(work, pool, candidates, unit.framework)
    device = sum(parts.values(), np.zeros(len(candidates)))
    limit = device_limit(pool)
    over = device > limit if limit else np.zeros(len(candidates), dtype=np.bool_)
    host = np.maximum(host_bytes(work, pool, candidates, device), float(scenario.resources.memory_bytes or 0))
    return Fit(device_bytes=device, host_bytes=host, over_device=over, fits=~over & (host <= node_limit(pool)))


def evaluate(unit: Unit, candidates: Candidates) -> Evaluated:
    """Return everything that is computed of candidates."""
    estimates = estimate(unit.work, unit.pool, candidates, unit.framework)
    factor = correction(unit.work, unit.pool, unit.framework, candidates)
    total = totals(unit.work, unit.pool, candidates, estimates, factor)
    return Evaluated(unit=unit, candidates=candidates, estimates=estimates, factor=factor, totals=total)
