"""From one step to the whole run: seconds, money, joules; and how much memory a plan may fill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.matching.candidates import Candidates
from mofang.matching.coefficients import coefficients
from mofang.matching.estimate import Estimates
from mofang.matching.goodput import losses, operations
from mofang.matching.work import Work

__all__ = ["Totals", "device_limit", "device_power", "node_limit", "totals"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """One row a candidate. ``cost`` and ``energy_j`` are None where nothing is known to count them by.

    ``step`` is the corrected step time. ``pace`` orders by time: the seconds of the whole run, or those of one step,
    everything shared out, where the run has a fixed duration and its steps follow from that. ``run`` is ``seconds``
    without what is lost to faults, checkpoints and waiting for data.
    """

    step: Floats
    steps: NDArray[np.int64]
    seconds: Floats
    pace: Floats
    device_seconds: Floats
    cost: Floats | None
    energy_j: Floats | None
    run: Floats

    @property
    def goodput(self) -> Floats:
        """The part of ``seconds`` that is not lost."""
        return self.run / self.seconds


def totals(work: Work, pool: Pool, candidates: Candidates, estimates: Estimates, factor: Floats | float) -> Totals:
    """Return the run's totals: its steps, their validation passes, compiling once, and what is lost on the way.

    ``factor`` corrects the step time (1: as estimated).
    """
    step = estimates.step_time * factor
    devices = candidates.devices.astype(np.float64)
    each, compiling, validation = step, candidates.compile * coefficients().compile_s, np.zeros(1)
    if work.validate_every:
        forward = estimates.validation_s * factor
        validation = work.validation_batches * forward * candidates.accumulation
        each = step + validation / work.validate_every
    count, nodes = candidates.devices, candidates.nodes
    if work.steps is None:
        time = np.full_like(step, work.duration_s or 0.0)
        lost = losses(work, pool, devices=count, nodes=nodes, step=step, run=time).seconds
        steps = np.maximum(1, (time - lost - compiling) / each).astype(np.int64)
    else:
        steps = np.broadcast_to(np.int64(work.steps), step.shape)
    many = steps.astype(np.float64) if work.steps is None else np.array(float(work.steps))
    run = many * step
    run += compiling
    if work.validate_every:
        run = run + steps // work.validate_every * validation
    seconds = losses(work, pool, devices=count, nodes=nodes, step=step, run=run).seconds
    seconds += run
    price = pool.price_per_device_hour
    device_seconds = seconds * devices
    return Totals(
        step=step,
        steps=steps,
        seconds=seconds,
        pace=seconds if work.steps is not None else seconds / steps,
        device_seconds=device_seconds,
        cost=None if price is None else device_seconds * (price / 3600.0),
        energy_j=_energy(pool, estimates, device_seconds, devices, many * factor),
        run=run,
    )


def _energy(pool: Pool, estimates: Estimates, device_seconds: Floats, devices: Floats, steps: Floats) -> Floats | None:
    """Return joules; ``steps`` are as many as last ``estimates.step_time`` each."""
    power = device_power(pool)
    if power is None:
        return None
    idle, rated = power
    energy = estimates.busy_s * steps
    energy *= (rated - idle) * devices
    energy += idle * device_seconds
    return energy


def device_power(pool: Pool) -> tuple[float, float] | None:
    """Return the watts of one idle device and of one that computes; None where they are unknown."""
    rated = pool.accelerator.tdp_w
    return None if rated is None or pool.is_cpu else (rated * operations().idle_power, rated)


def device_limit(pool: Pool) -> float:
    """Return the bytes of a device that a plan may fill; 0 where devices have no memory of their own."""
    return 0.0 if pool.is_cpu else pool.accelerator.memory_bytes * coefficients().usable_memory["accelerator"]


def node_limit(pool: Pool) -> float:
    """Return the bytes of host memory that a plan may fill on a node; infinite where it is unknown."""
    if not pool.node_memory_bytes:
        return float("inf")
    return pool.node_memory_bytes * coefficients().usable_memory["cpu"]
