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
from mofang.matching.estimate import Estimates, estimates_of
from mofang.matching.memory import Memory, host_bytes, memory_of, memory_parts
from mofang.matching.options import Option
from mofang.matching.profiles import profile_of
from mofang.matching.schedule import Schedule, schedule_of
from mofang.matching.totals import Totals, device_limit, node_limit, totals
from mofang.matching.work import Work

__all__ = ["Evaluated", "Fit", "Ready", "Unit", "evaluate", "fitting"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
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
        return sum(self.memory.values(), np.zeros(self.candidates.shape))

    def where(self, rows: slice) -> Evaluated:
        """Return some rows, evaluated again."""
        return evaluate(self.unit, self.candidates.where(rows))

    def busy(self, row: int) -> float:
        """Return the seconds of one row's step in which a device computes."""
        return float(self.factor[row] * self.estimates.busy_s[row])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Candidates of a unit, looked up in its tables; all together that takes far less than a few at a time."""

    unit: Unit
    candidates: Candidates
    memory: Memory
    schedule: Schedule | None = None  # None: looked up once it is known what fits

    @classmethod
    def of(cls, unit: Unit, candidates: Candidates, *, timed: bool = False) -> Ready:
        """Return candidates whose memory has been looked up, and with ``timed`` their time too."""
        memory = memory_of(unit.memory_work, unit.pool, candidates, unit.framework)
        return cls(
            unit=unit, candidates=candidates, memory=memory, schedule=_timed(unit, candidates) if timed else None
        )

    def where(self, rows: Ints | slice) -> Ready:
        """Return some of the candidates (of a grid, some layouts)."""
        candidates = self.candidates.where(rows)
        schedule = None if self.schedule is None else self.schedule.where(rows, candidates)
        return replace(self, candidates=candidates, memory=self.memory.where(rows), schedule=schedule)

    def fitting(self, scenario: Scenario) -> Fit:
        """Return the memory that each candidate needs, and whether it is there."""
        pool, device = self.unit.pool, self.memory.bytes()
        limit = device_limit(pool)
        over = device > limit if limit else np.zeros(device.shape, dtype=np.bool_)
        host, most = host_bytes(self.unit.memory_work, pool, self.candidates, device), node_limit(pool)
        if scenario.resources.memory_bytes:
            host = np.maximum(host, float(scenario.resources.memory_bytes))
        fits = ~over if np.isinf(most) else ~over & (host <= most)
        return Fit(device_bytes=device, host_bytes=host, over_device=over, fits=fits)

    def evaluate(self) -> Evaluated:
        """Return everything that is computed of the candidates."""
        if self.schedule is None:
            return evaluate(self.unit, self.candidates)
        return _evaluated(self.unit, self.schedule)


def _timed(unit: Unit, candidates: Candidates) -> Schedule:
    return schedule_of(unit.work, unit.pool, candidates, profile_of(unit.framework))


def fitting(scenario: Scenario, unit: Unit, candidates: Candidates) -> Fit:
    """Return the memory that each candidate needs, and whether it is there."""
    return Ready.of(unit, candidates).fitting(scenario)


def evaluate(unit: Unit, candidates: Candidates) -> Evaluated:
    """Return everything that is computed of candidates."""
    return _evaluated(unit, _timed(unit, candidates))


def _evaluated(unit: Unit, schedule: Schedule) -> Evaluated:
    candidates = schedule.candidates
    estimates = estimates_of(unit.work, unit.pool, schedule, unit.framework)
    factor = correction(unit.work, unit.option, unit.framework, candidates)
    total = totals(unit.work, unit.pool, candidates, estimates, factor)
    return Evaluated(unit=unit, candidates=candidates, estimates=estimates, factor=factor, totals=total)
