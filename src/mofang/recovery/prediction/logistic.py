"""Logistic regression on piecewise-linear features, by Newton's method: small, calibrated, kept as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mofang.recovery.prediction.history import Bools, Floats

__all__ = ["RiskModel", "fit_risk"]

_KNOTS = (0.0, 50.0, 75.0, 90.0, 97.0, 99.5)  # percentiles of a feature's distinct range, where its slope may change
_STEPS = 60
_LONGEST = 4.0  # the most that one step may change any log-odds: Newton's method is sure to converge only nearby


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskModel:
    """The log-odds are ``intercept`` + sum over hinges of ``weights`` x max(feature - knot, 0) / scale."""

    names: tuple[str, ...]
    knots: tuple[tuple[float, ...], ...]  # of each feature
    scales: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    intercept: float

    def risk(self, features: NDArray[np.float32]) -> Floats:
        """Return the probability of a fault for each row of features."""
        odds = np.full(len(features), self.intercept)
        for place, (knots, scales, weights) in enumerate(zip(self.knots, self.scales, self.weights, strict=True)):
            for knot, scale, weight in zip(knots, scales, weights, strict=True):
                odds += weight / scale * np.maximum(features[:, place].astype(np.float64) - knot, 0.0)
        found: Floats = 1.0 / (1.0 + np.exp(-np.clip(odds, -30.0, 30.0)))
        return found


def fit_risk(
    names: tuple[str, ...], features: NDArray[np.float32], failed: Bools, *, penalty: float, seed: int = 0
) -> RiskModel:
    """Fit the weights: penalised maximum likelihood, on all failures and a weighted part of the rest.

    Args:
        names: of the features.
        features: one row a sample.
        failed: whether the unit failed within the horizon.
        penalty: of the squared weights (features are scaled to unit variance).
        seed: of the draw of rows that did not fail.
    """
    rows, weight = _thinned(failed, seed)
    values, happened = features[rows].astype(np.float64), failed[rows].astype(np.float64)
    knots = tuple(_knots(values[:, place]) for place in range(values.shape[1]))
    columns = [np.maximum(values[:, place] - knot, 0.0) for place, those in enumerate(knots) for knot in those]
    deviations = [
        float(np.sqrt(np.average(np.square(column - np.average(column, weights=weight)), weights=weight)))
        for column in columns
    ]
    scales = [max(one, 1e-9) for one in deviations]
    design = np.stack(
        [np.ones(len(rows)), *(column / scale for column, scale in zip(columns, scales, strict=True))], axis=1
    )
    found = _newton(design, happened, weight, penalty)
    each = np.cumsum([0, *map(len, knots)])
    return RiskModel(
        names=names,
        knots=knots,
        scales=tuple(tuple(scales[start:stop]) for start, stop in pairwise(each)),
        weights=tuple(tuple(map(float, found[1 + start : 1 + stop])) for start, stop in pairwise(each)),
        intercept=float(found[0]),
    )


def _thinned(failed: Bools, seed: int, most: int = 40) -> tuple[NDArray[np.intp], Floats]:
    """Return all failures and at most so many other rows for each, weighted to stand for all."""
    yes, no = np.flatnonzero(failed), np.flatnonzero(~failed)
    keep = min(len(no), max(most * len(yes), 20000))
    chosen = np.random.default_rng(seed).choice(no, keep, replace=False)
    return np.concatenate([yes, chosen]), np.concatenate([np.ones(len(yes)), np.full(keep, len(no) / max(keep, 1))])


def _knots(values: Floats) -> tuple[float, ...]:
    spread = np.unique(values)
    return tuple(float(one) for one in np.unique(np.percentile(spread, _KNOTS))[:-1]) or (float(spread[0]),)


def _newton(design: Floats, happened: Floats, weight: Floats, penalty: float) -> Floats:
    ridge = np.full(design.shape[1], penalty)
    ridge[0] = 1e-9
    mean = np.average(happened, weights=weight)
    found = np.zeros(design.shape[1])
    found[0] = np.log(mean / (1.0 - mean))
    for _ in range(_STEPS):
        risk = 1.0 / (1.0 + np.exp(-np.clip(design @ found, -30, 30)))
        gradient = design.T @ (weight * (happened - risk)) - ridge * found
        curvature = (design * (weight * risk * (1.0 - risk))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        found += step * min(1.0, _LONGEST / max(float(np.abs(design @ step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-6:
            break
    return found
