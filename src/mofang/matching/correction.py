"""What measurements say the physical estimate is off by, for candidates of one work on one pool."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.domain.estimate import Evidence
from mofang.domain.hardware import Pool
from mofang.matching.calibration import NORMAL_90, calibration
from mofang.matching.candidates import Candidates
from mofang.matching.coefficients import coefficients
from mofang.matching.work import Work
from mofang.matching.workers import is_measured

__all__ = ["correction", "interval", "least_correction", "nearest_evidence"]

Floats = NDArray[np.float64]


def correction(work: Work, pool: Pool, framework: Framework, candidates: Candidates) -> Floats:
    """Return the factor on each candidate's step time.

    It is a product of one that follows from the layout and one that follows from the way; bounds rely on that.
    Processor cores, and devices whose own operators were timed, keep their estimate: what is published is of other
    machines.
    """
    if not _is_corrected(pool):
        return np.ones(len(candidates))
    return np.exp(calibration().log_factor(work, pool, framework, candidates))


def least_correction(work: Work, pool: Pool, framework: Framework) -> float:
    """Return what the factor of no candidate is below."""
    if not _is_corrected(pool):
        return 1.0
    return float(np.exp(calibration().least_log_factor(work, pool, framework)))


def interval(work: Work, pool: Pool, framework: Framework, candidates: Candidates) -> tuple[Floats, Floats]:
    """Return the ends of the 90 % interval as factors on the corrected step time; meant for few candidates."""
    ones = np.ones(len(candidates))
    if not _is_corrected(pool):
        low, high = coefficients().interval["measured" if is_measured(pool) else "unknown"]
        return low * ones, high * ones
    _, deviation = calibration().factor(work, pool, framework, candidates)
    return np.exp(-NORMAL_90 * deviation), np.exp(NORMAL_90 * deviation)


def nearest_evidence(work: Work, pool: Pool, framework: Framework, one: Candidates) -> tuple[Evidence, ...]:
    """Return how well such jobs are known, and the measurements nearest to one candidate, with their sources."""
    if not _is_corrected(pool):
        return ()
    return calibration().evidence(work, pool, framework, one)


def _is_corrected(pool: Pool) -> bool:
    return not pool.is_cpu and not is_measured(pool)
