"""Finished jobs as calibration sees them: nothing is assumed, as what ran is known to the last setting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mofang.catalog.frameworks import frameworks
from mofang.domain.hardware import Pool
from mofang.domain.measurement import Run, TrainingMeasurement
from mofang.domain.strategy import Strategy
from mofang.matching.calibration.quantity import Quantity, Speed
from mofang.matching.calibration.setting import Setting
from mofang.matching.candidates import METHODS, OFFLOADS, PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.estimate import estimate
from mofang.matching.work import Work, variants, work_of

__all__ = ["run_setting"]


def run_setting(row: TrainingMeasurement, run: Run, pool: Pool) -> Setting | None:
    """Return a finished job, translated; None where its step time or devices are not known.

    Args:
        row: what it measured.
        run: what it ran.
        pool: devices like those that it ran on.
    """
    if not row.step_time_s or not row.num_devices:
        return None
    work = _work(run)
    framework = frameworks().get(run.strategy.framework)
    one = _candidate(run.strategy, row.num_devices, row.devices_per_node or row.num_devices)
    found = estimate(work, pool, one, framework)
    tokens = work.global_batch * work.sequence / row.step_time_s / row.num_devices
    return Setting(
        row=row,
        work=work,
        pool=pool,
        candidates=one,
        framework=framework,
        speed=Speed(tokens_per_s_per_device=tokens, quantity=Quantity.STEP_TIME),
        step_time=float(found.step_time[0]),
        memory_bytes=float(found.memory_bytes[0]),
    )


def _work(run: Run) -> Work:
    """Return the work with sequences as long as the job's micro-batch made them."""
    work = replace(work_of(run.task), methods=(run.strategy.method,))
    fixed = replace(work, strategy=replace(work.strategy, micro_batch=run.strategy.micro_batch))
    return variants(fixed)[0]


def _candidate(strategy: Strategy, devices: int, each: int) -> Candidates:
    cut = strategy.parallelism
    columns = {name: getattr(cut, name) for name in ("dp", "tp", "pp", "cp", "ep", "vpp")}
    columns |= {
        "nodes": -(-devices // each),
        "devices": devices,
        "threads": strategy.threads,
        "micro_batch": strategy.micro_batch,
        "accumulation": strategy.accumulation,
        "precision": PRECISIONS.index(strategy.precision),
        "recompute": RECOMPUTES.index(strategy.recompute),
        "sharding": SHARDINGS.index(strategy.sharding),
        "compile": int(strategy.compile),
        "method": METHODS.index(strategy.method),
        "offload": OFFLOADS.index(strategy.offload),
    }
    return Candidates(**{name: np.array([value], dtype=np.int64) for name, value in columns.items()})
