"""What every candidate of a pool is predicted to do: step time by part, memory by part, throughput and MFU.

What depends on few columns is computed once for every distinct combination of them (a micro-batch, the data-parallel
states, the stages) and gathered; only the schedule that joins them is computed for every candidate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.domain.hardware import Pool
from mofang.matching.candidates import PRECISIONS, Candidates
from mofang.matching.deferred import Deferred, Parts
from mofang.matching.memory import memory_parts
from mofang.matching.profiles import profile_of
from mofang.matching.schedule import PARTS, Schedule, schedule_of
from mofang.matching.work import Work
from mofang.matching.workers import peak_flops

__all__ = ["PARTS", "Estimates", "estimate", "estimates_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """One row a candidate: seconds, bytes, FLOP/s.

    ``time`` splits ``step_time`` (seconds of one optimiser step) into ``PARTS``, ``memory`` the bytes of the fullest
    device. ``busy_s`` is the part of a step in which a chip computes or moves its own data.
    """

    pool: Pool
    schedule: Schedule
    step_time: Floats
    busy_s: Floats
    time: Mapping[str, Floats]
    memory: Mapping[str, Floats]

    @property
    def validation_s(self) -> Floats:
        """Seconds of one forward pass of one micro-batch."""
        return self.schedule.validation()

    @property
    def peak_flops(self) -> Floats:
        """FLOP/s of all devices together, in the precision they compute in."""
        return _peak(self.pool, self.schedule.candidates)

    @property
    def memory_bytes(self) -> Floats:
        """Bytes on the fullest device, or in one worker where the devices are cores."""
        return sum(self.memory.values(), np.zeros_like(self.step_time))


def estimate(work: Work, pool: Pool, candidates: Candidates, framework: Framework | None = None) -> Estimates:
    """Return what each candidate is predicted to do on the pool; ``framework`` None is the ``gpt`` recipe.

    Columns may hold any combination: degrees need not multiply to the devices, nor layers divide by stages.
    """
    return estimates_of(work, pool, schedule_of(work, pool, candidates, profile_of(framework)), framework)


def estimates_of(work: Work, pool: Pool, schedule: Schedule, framework: Framework | None) -> Estimates:
    """Return what ``estimate`` does of candidates that were looked up before."""
    return Estimates(
        pool=pool,
        schedule=schedule,
        step_time=schedule.step_time(),
        busy_s=schedule.busy(),
        time=Parts(PARTS, schedule.part),
        memory=Deferred(lambda: memory_parts(work, pool, schedule.candidates, framework)),
    )


def _peak(pool: Pool, candidates: Candidates) -> Floats:
    used = np.unique(candidates.precision)
    peaks = np.zeros(len(PRECISIONS))
    peaks[used] = [peak_flops(pool, PRECISIONS[code]) for code in used]
    peak: Floats = peaks[candidates.precision] * candidates.devices
    return peak
