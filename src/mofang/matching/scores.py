"""How good predictions are: errors, interval coverage, and how well they rank what was measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mofang.clock import seeded

__all__ = [
    "Ranking",
    "Score",
    "absolute_errors",
    "bootstrap_interval",
    "concordance",
    "pairs_of",
    "rank_correlation",
    "ranking",
    "score",
    "top1_regret",
]

Floats = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Errors of ``n`` predictions, as fractions: 0.1 is 10 %. With n = 0 every other figure is None.

    An absolute error is |predicted - measured| / measured. ``bias`` is the median of the signed errors: above zero
    where predictions are too high. ``coverage_90`` is the part of measurements inside their 90 % interval.
    """

    n: int
    median_ape: float | None
    p90_ape: float | None
    bias: float | None
    coverage_90: float | None

    def to_data(self) -> dict[str, float | int | None]:
        """Return the figures as plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How well groups of alternatives are ranked; the interval of the concordance holds 90 % of bootstrap draws.

    ``mean_regret`` is the part of the speed lost by taking the predicted best of a group. None: nothing to rank.
    """

    groups: int
    rows: int
    mean_regret: float | None
    concordance: float | None
    concordance_90: tuple[float, float] | None

    def to_data(self) -> dict[str, float | int | list[float] | None]:
        """Return the figures as plain data."""
        interval = None if self.concordance_90 is None else list(self.concordance_90)
        return {**asdict(self), "concordance_90": interval}


def absolute_errors(predicted: ArrayLike, measured: ArrayLike) -> Floats:
    """Return |predicted - measured| / measured, element by element."""
    wanted = np.asarray(measured, dtype=np.float64)
    errors: Floats = np.abs(np.asarray(predicted, dtype=np.float64) - wanted) / wanted
    return errors


def score(
    predicted: ArrayLike, measured: ArrayLike, low: ArrayLike | None = None, high: ArrayLike | None = None
) -> Score:
    """Return the score of predictions against measurements above zero; without ``low`` and ``high``, no coverage."""
    guess, wanted = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if not len(wanted):
        return Score(n=0, median_ape=None, p90_ape=None, bias=None, coverage_90=None)
    errors = absolute_errors(guess, wanted)
    inside = None
    if low is not None and high is not None:
        inside = float(np.mean((np.asarray(low) <= wanted) & (wanted <= np.asarray(high))))
    return Score(
        n=len(wanted),
        median_ape=float(np.median(errors)),
        p90_ape=float(np.quantile(errors, 0.9)),
        bias=float(np.median(guess / wanted - 1.0)),
        coverage_90=inside,
    )


def pairs_of(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float, int]:
    """Return how many pairs are ordered as measured, and how many pairs there are; a predicted tie counts half."""
    right, total = 0.0, 0
    for (guess, wanted), (other_guess, other_wanted) in itertools.combinations(
        zip(predicted, measured, strict=True), 2
    ):
        if wanted == other_wanted:
            continue
        total += 1
        agreement = (guess - other_guess) * (wanted - other_wanted)
        right += 0.5 if agreement == 0 else float(agreement > 0)
    return right, total


def concordance(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float | None:
    """Return the part of all pairs inside the groups (predicted, measured) that are ordered as measured."""
    counts = [pairs_of(*group) for group in groups]
    total = sum(pairs for _, pairs in counts)
    return sum(right for right, _ in counts) / total if total else None


def top1_regret(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Return the part of the best measured speed that is lost by taking the one predicted to be the fastest."""
    return 1.0 - measured[int(np.argmax(np.asarray(predicted)))] / max(measured)


def ranking(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, seed: int = 0) -> Ranking:
    """Return how well the groups (predicted speeds, measured speeds) are ranked; the interval resamples groups."""
    found = list(groups.values())
    return Ranking(
        groups=len(found),
        rows=sum(len(measured) for _, measured in found),
        mean_regret=float(np.mean([top1_regret(*group) for group in found])) if found else None,
        concordance=concordance(found),
        concordance_90=bootstrap_interval(found, concordance, seed=seed),
    )


def bootstrap_interval(
    values: Sequence[T],
    figure: Callable[[Sequence[T]], float | None],
    *,
    level: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the percentile interval of ``figure`` over resamples of ``values`` (Efron, doi:10.1214/aos/1176344552).

    None where there are no values, or no resample has the figure.
    """
    if not values:
        return None
    chance = seeded(seed)
    drawn = [figure(chance.choices(values, k=len(values))) for _ in range(draws)]
    known = [value for value in drawn if value is not None and math.isfinite(value)]
    if not known:
        return None
    low, high = np.quantile(known, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's rank correlation, ties at their mean rank; nan where one of them does not vary."""
    one, two = _ranks(np.asarray(first, dtype=np.float64)), _ranks(np.asarray(second, dtype=np.float64))
    if one.std() == 0 or two.std() == 0:
        return math.nan
    return float(np.corrcoef(one, two)[0, 1])


def _ranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: Floats = last - (counts - 1) / 2.0
    return middle[place]
