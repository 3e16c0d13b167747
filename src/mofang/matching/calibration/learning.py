"""Variances of the effects, learned from the residuals themselves (empirical Bayes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mofang.matching.calibration.features import Features
from mofang.matching.calibration.process import FREEDOM, Kernels, Prior, Term, inverted, weights, without

__all__ = ["learn", "leave_out", "scales"]

Floats = NDArray[np.float64]

_START = 0.05**2
_SMALLEST = 1e-4**2  # below this an effect is none
_LEAST_NOISE = 0.01**2
_ENOUGH = 20  # rows of a vendor
_NORMAL_90 = 1.6449  # the 95 % point of the normal distribution


def learn(
    terms: Sequence[Term],
    features: Features,
    residuals: Floats,
    *,
    floors: Mapping[Term, float],
    shared: float,
    fixed: Mapping[Term, float],
    rounds: int = 60,
) -> Prior:
    """Return the prior whose variances make the residuals most likely.

    Minorise-maximise steps for variance components (Zhou, Hu, Qiao, Cho and Zhou, doi:10.1080/10618600.2018.1529601)
    raise the marginal likelihood with every round; in between, rows are weighted as Student's t asks. An effect that
    the rows say nothing of falls to zero, or to its floor (a variance) where a job may bring a new member of the group.
    ``fixed`` are effects that no row has.
    """
    kernels = Kernels(features, features)
    stacked = np.stack([kernels.of(term).astype(np.float32) for term in terms])
    variances = np.full(len(terms), _START, dtype=np.float32)
    least = np.array([floors.get(term, _SMALLEST) for term in terms], dtype=np.float32)
    noise, weight = _START, np.ones(len(residuals))
    for _ in range(rounds):
        effects = np.tensordot(variances, stacked, 1).astype(np.float64) + shared
        inverse = np.linalg.inv(effects + np.diag(noise / weight))
        solved = inverse @ residuals
        narrow = solved.astype(np.float32)
        explained = (stacked @ narrow) @ narrow
        expected = np.tensordot(stacked, inverse.astype(np.float32), ([1, 2], [0, 1]))
        variances = np.maximum(variances * np.sqrt(np.maximum(explained, 0.0) / np.maximum(expected, 1e-12)), least)
        scale = float(np.sum(solved**2 / weight) / np.sum(np.diag(inverse) / weight))
        noise = max(noise * float(np.sqrt(scale)), _LEAST_NOISE)
        weight = (FREEDOM + 1.0) / (FREEDOM + solved**2 / np.diag(inverse))
    kept = {term: float(size) for term, size in zip(terms, variances, strict=True) if size > 2.0 * _SMALLEST}
    return Prior(variances={**kept, **fixed}, shared=shared, noise=noise)


def leave_out(
    prior: Prior,
    known: Features,
    residuals: Floats,
    groups: NDArray[np.str_],
    *,
    targets: Features | None = None,
    target_groups: NDArray[np.str_] | None = None,
) -> tuple[Floats, Floats]:
    """Return each target's expected residual and variance, from a fit that never saw any row of its group.

    Without targets these are the known rows themselves.
    """
    if targets is None or target_groups is None:
        targets, target_groups = known, groups
    effects = Kernels(known, known).total(prior)
    across = Kernels(targets, known).total(prior)
    plain = inverted(effects + prior.noise * np.eye(len(known)))
    mean, variance = np.zeros(len(targets)), np.zeros(len(targets))
    for group in np.unique(target_groups):
        rows = np.flatnonzero(target_groups == group)
        out, kept = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        here, there = effects[np.ix_(kept, kept)], across[np.ix_(rows, kept)]
        weight = weights(prior, here, residuals[kept], without(plain, out, kept))
        sides = np.column_stack([residuals[kept], there.T])
        solved = np.linalg.solve(here + np.diag(prior.noise / weight), sides)
        mean[rows] = there @ solved[:, 0]
        variance[rows] = prior.left(targets.where(rows), np.einsum("ij,ji->i", there, solved[:, 1:]))
    return mean, variance


def scales(errors: Floats, variance: Floats, vendors: NDArray[np.str_]) -> dict[str, float]:
    """Return by how much to widen intervals so that left-out rows lie inside as often as the intervals say.

    The factor is the 90 % quantile of |error| / deviation over the normal one (conformal prediction, Vovk, Gammerman
    and Shafer, 2005): overall ("") and for every vendor with enough rows to have a quantile of its own.
    """
    ratios = np.abs(errors) / np.sqrt(variance) / _NORMAL_90
    found = {"": float(np.quantile(ratios, 0.9))}
    for vendor in np.unique(vendors):
        mine = ratios[vendors == vendor]
        if len(mine) >= _ENOUGH:
            found[str(vendor)] = float(np.quantile(mine, 0.9))
    return found
