"""What measurements say the physical estimate is off by, for candidates of one work on one pool."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.domain.estimate import Evidence
from mofang.matching.calibration import NORMAL_90, Calibration, calibration
from mofang.matching.candidates import Candidates
from mofang.matching.coefficients import coefficients
from mofang.matching.options import Option
from mofang.matching.work import Work
from mofang.matching.workers import is_measured

__all__ = ["correction", "interval", "least_correction", "nearest_evidence"]

Floats = NDArray[np.float64]


def correction(work: Work, option: Option, framework: Framework, candidates: Candidates) -> Floats:
    """Return the factor on each candidate's step time.

    It is a product of one that follows from the layout and one that follows from the way; bounds rely on that.
    """
    known = _known(option)
    if known is None:
        return np.ones(candidates.shape)
    return known.ratio(work, option.pool, framework, candidates)


def least_correction(work: Work, option: Option, framework: Framework) -> float:
    """Return what the factor of no candidate is below."""
    known = _known(option)
    return 1.0 if known is None else float(np.exp(known.least_log_factor(work, option.pool, framework)))


def interval(work: Work, option: Option, framework: Framework, candidates: Candidates) -> tuple[Floats, Floats]:
    """Return the ends of the 90 % interval as factors on the corrected step time; meant for few candidates."""
    known = _known(option)
    if known is None:
        ones = np.ones(len(candidates))
        low, high = coefficients().interval["measured" if is_measured(option.pool) else "unknown"]
        return low * ones, high * ones
    _, deviation = known.factor(work, option.pool, framework, candidates)
    return np.exp(-NORMAL_90 * deviation), np.exp(NORMAL_90 * deviation)


def nearest_evidence(work: Work, option: Option, framework: Framework, one: Candidates) -> tuple[Evidence, ...]:
    """Return how well such jobs are known, and the measurements nearest to one candidate, with their sources."""
    known = _known(option)
    return () if known is None else known.evidence(work, option.pool, framework, one)


def _known(option: Option) -> Calibration | None:
    """Return what calibrates an option.

    On processor cores, and on devices whose own operators were timed, only the user's jobs on them do: what is
    published is of other machines. None where no job has run there yet.
    """
    own = option.known
    if option.pool.is_cpu or is_measured(option.pool):
        return None if own is None else own.at(option.pool)
    return calibration() if own is None else own.training
