"""What to do about a predicted fault: a snapshot, hardly ever a drain, and never without snapshots at intervals.

Pure arithmetic on costs in seconds of the whole job. A snapshot now saves, should the fault come, the work since the
last one: it pays where p x work at risk > its stall. Draining a node costs a replacement and a restart for sure, and
more where the node was healthy; it pays only where the fault is all but certain. The interval between snapshots is
``cadence.young_daly`` on the hazard that results; silence of the predictor never lengthens it beyond what its measured
recall allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from mofang.recovery.cadence import interval

__all__ = [
    "Action",
    "Costs",
    "Judgement",
    "drain_threshold",
    "hazard_of_risk",
    "job_hazard",
    "judge",
    "pays",
    "work_at_risk",
]


class Action(StrEnum):
    """What a risk calls for."""

    NOTHING = "nothing"
    SNAPSHOT = "snapshot"
    DRAIN = "drain"  # move the job off the node while it still works


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds of the whole job. The defaults serve until something was measured."""

    stall_s: float = 0.5  # training stands still for one snapshot
    detect_s: float = 10.0
    replace_s: float = 20.0  # another node in the place of one
    restart_s: float = 5.0
    needless_s: float = 600.0  # a healthy node taken out: looked at for hours, while a spare is missing

    @property
    def fault_s(self) -> float:
        """What a fault costs beside the work that is done again."""
        return self.detect_s + self.replace_s + self.restart_s

    @property
    def drain_s(self) -> float:
        """What moving off a node costs: nothing has to be detected, nothing is done again."""
        return self.stall_s + self.replace_s + self.restart_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """An action, with the figures that led to it."""

    action: Action
    probability: float
    threshold: float  # of the snapshot
    work_at_risk_s: float


def hazard_of_risk(probability: float, horizon_s: float) -> float:
    """Return the faults a second that a probability within a horizon means, for a constant rate."""
    return -math.log1p(-min(max(probability, 0.0), 1.0 - 1e-12)) / horizon_s


def job_hazard(node_hazards: list[float] | tuple[float, ...]) -> float:
    """Return the faults a second of a job that any of its nodes stops: rates of independent nodes add up."""
    return math.fsum(node_hazards)


def work_at_risk(costs: Costs, hazard_per_s: float, recall: float, since_wish_s: float) -> float:
    """Return the seconds of work that a fault now would undo.

    Half an interval on average, for a job that snapshots as often as pays; less if a snapshot was just asked for.

    Args:
        costs: of the job.
        hazard_per_s: faults a second of the whole job.
        recall: of the predictor, which makes the interval longer.
        since_wish_s: seconds since the last snapshot that was asked for.
    """
    return min(interval(costs.stall_s, hazard_per_s, recall) / 2.0, since_wish_s)


def drain_threshold(costs: Costs, at_risk_s: float) -> float:
    """Return the probability above which moving off a node is cheaper than waiting: (D + n) / (F + W + n).

    D is the drain, F the fault, W the work at risk and n what it costs to take out a healthy node. 1 or more: never.
    """
    return (costs.drain_s + costs.needless_s) / (costs.fault_s + at_risk_s + costs.needless_s)


def judge(probability: float, costs: Costs, at_risk_s: float) -> Judgement:
    """Return what a node's risk calls for.

    Args:
        probability: that the node fails within the predictor's horizon.
        costs: of the job.
        at_risk_s: seconds of work that a fault now would undo.
    """
    threshold = costs.stall_s / at_risk_s if at_risk_s > 0 else math.inf
    action = Action.SNAPSHOT if probability > threshold else Action.NOTHING
    if probability > drain_threshold(costs, at_risk_s):
        action = Action.DRAIN
    return Judgement(action=action, probability=probability, threshold=threshold, work_at_risk_s=at_risk_s)


def pays(recall: float, false_a_day: float, node_hazard_per_s: float, stall_s: float, at_risk_s: float) -> bool:
    """Return whether a predictor, as it was measured, saves more work on a node than its false alarms cost.

    Args:
        recall: part of the faults that it sees in time.
        false_a_day: snapshots for nothing, for one node.
        node_hazard_per_s: faults a second of the node.
        stall_s: of one snapshot.
        at_risk_s: seconds of work that a fault undoes.
    """
    return recall * node_hazard_per_s * 86400.0 * at_risk_s > false_a_day * stall_s
