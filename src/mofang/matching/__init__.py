"""The compute-matching cube: a scenario and pools of devices -> ranked plans, each with a prediction, and reasons.

    >>> result = match(scenario, pools)
    >>> result.plans[0].estimate.step_time_s, result.rejections

It is pure: the same scenario and pools give the same result, and nothing is read or written.
"""

from mofang.matching.explain import estimate_rows, rejection_row
from mofang.matching.search import match
from mofang.matching.sensitivities import sensitivities

__all__ = ["estimate_rows", "match", "rejection_row", "sensitivities"]
