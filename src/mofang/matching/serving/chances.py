"""How likely a service keeps its level: what the intervals of its prediction say of the limits."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mofang.domain.scenario import ServiceLevel

__all__ = ["chance_kept"]

Floats = NDArray[np.float64]

_NORMAL = NormalDist()


def chance_kept(
    level: ServiceLevel, *, ttft: Floats, tpot: Floats, spare: Floats, start_sd: Floats, time_sd: Floats
) -> Floats:
    """Return the probability that each service keeps its level and keeps up with its requests.

    Both times are off by factors whose logarithms are normal, on either side with a deviation of its own. The time per
    token and the rate at which a service saturates are off by the same factor, so the scarcer of the two counts; the
    time to the first token is off by itself.

    Args:
        level: the limits.
        ttft: seconds at the level's percentile.
        tpot: the same for each token.
        spare: the requests/s that saturate it over those that come; infinite where nothing has to be kept up with.
        start_sd: log standard deviations of the time to the first token, below and above (rows x 2).
        time_sd: the same of the time of an iteration.
    """
    room = np.log(spare)
    if level.tpot_s is not None:
        room = np.minimum(room, np.log(level.tpot_s / tpot))
    chance = _below(room, time_sd)
    if level.ttft_s is not None:
        chance = chance * _below(np.log(level.ttft_s / ttft), start_sd)
    return chance


def _below(room: Floats, sd: Floats) -> Floats:
    """Return the probability that a log ratio is at most ``room``."""
    deviations = room / np.where(room < 0.0, sd[:, 0], sd[:, 1])
    return np.array([_NORMAL.cdf(float(one)) for one in deviations], dtype=np.float64)
