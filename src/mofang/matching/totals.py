"""From one step to the whole run: seconds, money, joules; and how much memory a plan may fill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.matching.candidates import Candidates
from mofang.matching.coefficients import coefficients
from mofang.matching.estimate import Estimates
from mofang.matching.options import Option
from mofang.matching.work import Work

__all__ = ["Evaluated", "Totals", "device_limit", "node_limit", "totals"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """One row a candidate. ``cost`` and ``energy_j`` are None where nothing is known to count them by.

    ``pace`` orders by time: the seconds of the whole run, or those of one step, everything shared out, where the
    run has a fixed duration and its steps follow from that.
    """

    steps: NDArray[np.int64]
    seconds: Floats
    pace: Floats
    device_seconds: Floats
    cost: Floats | None
    energy_j: Floats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One option's candidates with everything that was computed of them; one row a candidate."""

    task: Work
    option: Option
    candidates: Candidates
    estimates: Estimates
    totals: Totals

    @property
    def pool(self) -> Pool:
        """The option's pool."""
        return self.option.pool


def totals(task: Work, pool: Pool, candidates: Candidates, estimates: Estimates) -> Totals:
    """Return the run's totals: its steps, their validation passes, and compiling once."""
    step = estimates.step_time
    forward = estimates.validation_s * candidates.accumulation
    validation = task.validation_batches * forward if task.validate_every else np.zeros_like(step)
    each = step + validation / max(1, task.validate_every)
    compiling = candidates.compile * coefficients().compile_s
    if task.steps is None:
        steps = np.maximum(1, ((task.duration_s or 0.0) - compiling) / each).astype(np.int64)
    else:
        steps = np.full(len(candidates), task.steps, dtype=np.int64)
    passes = steps // max(1, task.validate_every)
    seconds: Floats = steps * step + passes * validation + compiling
    price, power = pool.price_per_device_hour, pool.accelerator.tdp_w
    device_seconds: Floats = seconds * candidates.devices.astype(np.float64)
    return Totals(
        steps=steps,
        seconds=seconds,
        pace=seconds if task.steps is not None else seconds / steps,
        device_seconds=device_seconds,
        cost=None if price is None else device_seconds * price / 3600.0,
        energy_j=None if power is None or pool.is_cpu else device_seconds * power,
    )


def device_limit(pool: Pool) -> float:
    """Return the bytes of a device that a plan may fill; 0 where devices have no memory of their own."""
    return 0.0 if pool.is_cpu else pool.accelerator.memory_bytes * coefficients().usable_memory["accelerator"]


def node_limit(pool: Pool) -> float:
    """Return the bytes of host memory that a plan may fill on a node; infinite where it is unknown."""
    if not pool.node_memory_bytes:
        return float("inf")
    return pool.node_memory_bytes * coefficients().usable_memory["cpu"]
