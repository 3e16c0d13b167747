"""The first-order cost of faults, for Poisson faults and spares without end: what the simulation is checked against.

Waste = C/T + (D + R + (1 - r)(T/2 + S) + r L)/M + (r/p) C/M, with snapshots of C seconds every T, faults every M,
detection D, replacement and restart R, S seconds until a snapshot is safe, and a predictor of recall r and precision p
whose snapshot ends L before the fault. T* = sqrt(2 M C / (1 - r)) (Aupy, Robert, Vivien et al.,
doi:10.1016/j.jpdc.2013.10.010; Young, doi:10.1145/361147.361115, for r = 0). It holds where the waste is small.
"""

from __future__ import annotations

from mofang.recovery.cadence import young_daly
from mofang.recovery.simulation.faults import FaultModel
from mofang.recovery.simulation.practices import Practice

__all__ = ["expected_waste", "snapshot_interval"]

_SHORTEST_S = 1.0  # a snapshot a second is more often than steps end


def snapshot_interval(practice: Practice, faults: FaultModel, devices: int) -> float:
    """Return the seconds of work between two snapshots: the practice's own, or the optimum."""
    if practice.interval_s is not None:
        return practice.interval_s
    recall = practice.predictor.recall if practice.predictor else 0.0
    return max(young_daly(practice.stall_s, 1.0 / faults.mean_interval_s(devices), recall), _SHORTEST_S)


def expected_waste(practice: Practice, faults: FaultModel, devices: int) -> float:
    """Return the part of the time that is lost, to first order."""
    mean = faults.mean_interval_s(devices)
    between = snapshot_interval(practice, faults, devices)
    seen, lead, alarms = 0.0, 0.0, 0.0
    if practice.predictor is not None:
        seen, lead = practice.predictor.recall, practice.predictor.lead_s
        alarms = seen + practice.predictor.false_alarms
    lost = (1.0 - seen) * (between / 2.0 + practice.settle_s) + seen * min(lead, between / 2.0)
    back = practice.detect_s + practice.replace_s + practice.restart_s
    return practice.stall_s / between + (back + lost + alarms * practice.stall_s) / mean
