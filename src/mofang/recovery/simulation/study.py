"""Many simulated runs of each practice: means with confidence intervals, ready for a table and a picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from mofang.clock import seeded
from mofang.recovery.simulation.faults import FaultModel
from mofang.recovery.simulation.formula import expected_waste, snapshot_interval
from mofang.recovery.simulation.practices import Practice
from mofang.recovery.simulation.run import LOSSES, simulate

__all__ = ["Study", "enough_spares", "study"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One practice on one size of cluster. Intervals are 95 % of the mean over the runs."""

    practice: str
    title: str
    devices: int
    spares: int  # nodes
    runs: int
    interval_s: float  # between snapshots
    ettr: float
    ettr_95: tuple[float, float]
    lost_device_hours: float  # in 30 days; work not done by the devices of the job
    lost_95: tuple[float, float]
    spare_device_hours: float  # in 30 days; idle spares
    faults: float  # in 30 days
    losses: Mapping[str, float]  # parts of the elapsed time
    formula_ettr: float  # to first order, spares without end


def enough_spares(faults: FaultModel, devices: int) -> int:
    """Return how many spare nodes cover all but 1 % of the time: the 99 % quantile of a Poisson number in repair.

    Nodes in repair are an M/G/infinity queue where faults are Poisson (Palm, 1943); bursts make it worse.
    """
    mean = faults.nodes_out(devices)
    count, term = 0, math.exp(-mean)
    if term == 0.0:  # too many for the sum: the normal approximation
        return math.ceil(mean + 2.326 * math.sqrt(mean))
    total = term
    while total < 0.99:
        count += 1
        term *= mean / count
        total += term
    return count


def study(
    name: str,
    practice: Practice,
    faults: FaultModel,
    *,
    devices: int,
    node_devices: int = 8,
    spares: int | None = None,
    days: float = 30.0,
    runs: int = 100,
    seed: int = 0,
) -> Study:
    """Simulate a practice many times.

    Args:
        name: of the practice.
        practice: what is simulated.
        faults: how faults arrive.
        devices: of the job.
        node_devices: in a node.
        spares: nodes kept ready; None: enough for 99 % of the time.
        days: of each run.
        runs: how many; at least 2.
        seed: of the first run; all practices see the same seeds.
    """
    ready = enough_spares(faults, devices) if spares is None else spares
    nodes = max(devices // node_devices, 1)
    outcomes = [
        simulate(
            practice, faults, nodes=nodes, node_devices=node_devices, spares=ready, days=days, chance=seeded(seed + run)
        )
        for run in range(runs)
    ]
    ratios = [one.ettr for one in outcomes]
    ettr, half = statistics.fmean(ratios), 1.96 * statistics.stdev(ratios) / math.sqrt(runs)
    month = nodes * node_devices * 720.0
    return Study(
        practice=name,
        title=practice.title,
        devices=devices,
        spares=ready,
        runs=runs,
        interval_s=snapshot_interval(practice, faults, devices),
        ettr=ettr,
        ettr_95=(ettr - half, min(ettr + half, 1.0)),
        lost_device_hours=(1.0 - ettr) * month,
        lost_95=(max(1.0 - ettr - half, 0.0) * month, (1.0 - ettr + half) * month),
        spare_device_hours=ready * node_devices * 720.0,
        faults=30.0 / days * statistics.fmean(one.faults for one in outcomes),
        losses={cause: statistics.fmean(one.losses[cause] / one.elapsed_s for one in outcomes) for cause in LOSSES},
        formula_ettr=1.0 - expected_waste(practice, faults, devices),
    )
