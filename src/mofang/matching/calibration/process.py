"""Partial pooling: residuals as a sum of effects that jobs share, each with a variance of its own.

A Bayesian linear mixed model (Gelman and Hill, 2007, chapter 12) written by its covariance, that is, as a Gaussian
process (Rasmussen and Williams, 2006, chapter 2). The covariance of two jobs is the sum over *terms*: a term adds its
variance where the jobs agree in all its labels, less the further apart they are in its sizes. So a group with few
rows is drawn to its relatives, and one with none keeps its prior: mean zero, and its whole variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mofang.matching.calibration.features import Features

__all__ = [
    "FREEDOM",
    "Kernels",
    "Posterior",
    "Prior",
    "Term",
    "condition",
    "inverted",
    "surprise",
    "weights",
    "without",
]

Floats = NDArray[np.float64]

FREEDOM = 4.0  # of Student's t, which rows far from all others follow (Lange et al., doi:10.2307/2290063)
_REWEIGHTINGS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """An effect shared by jobs alike in ``labels``; it fades over about ``reach`` factors of two of each size."""

    labels: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    reach: float = 2.0

    def __str__(self) -> str:
        return " x ".join((*self.labels, *(f"near {name}" for name in self.sizes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Variances of the terms, of what all jobs share, and of single measurements."""

    variances: Mapping[Term, float]
    shared: float
    noise: float

    @property
    def total(self) -> float:
        """Variance of a job that is like no other."""
        return sum(self.variances.values()) + self.shared + self.noise

    def scaled(self, factor: float) -> Prior:
        """Return the prior with every variance multiplied: jobs are as alike as before, and further apart or nearer."""
        variances = {term: factor * variance for term, variance in self.variances.items()}
        return Prior(variances=variances, shared=factor * self.shared, noise=factor * self.noise)

    def left(self, features: Features, explained: Floats) -> Floats:
        """Return the variance of one more measurement of each job, of whose effects this much is explained.

        A job at no site in particular has no effect of its site; any other unnamed label is that of somebody new, whose
        effect nobody knows.
        """
        there = sum(variance for term, variance in self.variances.items() if "site" in term.labels)
        whole = self.total - self.noise - np.where(features.labels["site"] == "", there, 0.0)
        found: Floats = np.maximum(whole - explained, 0.0) + self.noise
        return found


class Kernels:
    """Covariances between two sets of jobs, a term at a time."""

    def __init__(self, left: Features, right: Features) -> None:
        self._left, self._right = left, right
        self._alike: dict[str, Floats] = {}
        self._near: dict[tuple[str, float], Floats] = {}

    def of(self, term: Term) -> Floats:
        """Return one term's correlation of every job on the left with every job on the right."""
        found = np.ones((len(self._left), len(self._right)))
        for name in term.labels:
            found *= self._same(name)
        for name in term.sizes:
            found *= self._close(name, term.reach)
        return found

    def total(self, prior: Prior) -> Floats:
        """Return the covariance of the effects, without the noise of single measurements."""
        found = np.full((len(self._left), len(self._right)), prior.shared)
        for term, variance in prior.variances.items():
            found += variance * self.of(term)
        return found

    def _same(self, name: str) -> Floats:
        if name not in self._alike:
            left, right = self._left.labels[name], self._right.labels[name]
            _, codes = np.unique(np.concatenate([left, right]), return_inverse=True)
            same = codes[: len(left), None] == codes[None, len(left) :]
            # Nobody's source is no source: rows that nobody has measured do not share one.
            self._alike[name] = (same & (left != "")[:, None]).astype(np.float64)
        return self._alike[name]

    def _close(self, name: str, reach: float) -> Floats:
        key = (name, reach)
        if key not in self._near:
            left, first = np.unique(self._left.sizes[name], return_inverse=True)
            right, second = np.unique(self._right.sizes[name], return_inverse=True)
            table = np.exp(-0.5 * ((left[:, None] - right[None, :]) / reach) ** 2)
            self._near[key] = table[np.ix_(first, second)]
        return self._near[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """What the residuals of ``features`` say of others; ``weight`` is how much each row counts (1: like most)."""

    prior: Prior
    features: Features
    residuals: Floats
    weight: Floats
    solved: Floats  # covariance^-1 residuals
    _inverse: list[Floats] = field(default_factory=list)

    def mean(self, features: Features) -> Floats:
        """Return the expected residual of each job."""
        found: Floats = Kernels(features, self.features).total(self.prior) @ self.solved
        return found

    def predict(self, features: Features) -> tuple[Floats, Floats]:
        """Return the expected residual of each job, and the variance of one more measurement of it."""
        across = Kernels(features, self.features).total(self.prior)
        known = np.einsum("ij,jk,ik->i", across, self.inverse, across, optimize=True)
        return across @ self.solved, self.prior.left(features, known)

    @property
    def inverse(self) -> Floats:
        """Inverse of the covariance of the rows, made when first asked for."""
        if not self._inverse:
            effects = Kernels(self.features, self.features).total(self.prior)
            self._inverse.append(inverted(effects + np.diag(self.prior.noise / self.weight)))
        return self._inverse[0]


def condition(prior: Prior, features: Features, residuals: Floats) -> Posterior:
    """Return the posterior given measured residuals; rows far from what the others say count less."""
    effects = Kernels(features, features).total(prior)
    weight = weights(prior, effects, residuals)
    covariance = effects + np.diag(prior.noise / weight)
    return Posterior(
        prior=prior,
        features=features,
        residuals=residuals,
        weight=weight,
        solved=np.asarray(np.linalg.solve(covariance, residuals), dtype=np.float64),
    )


def surprise(prior: Prior, features: Features, residuals: Floats) -> float:
    """Return by how much variances must grow for the residuals to be what the prior expects; at least 1.

    The mean of the variance's posterior where its prior is worth ``FREEDOM`` residuals (Gelman and Hill, 2007, section
    18.4: the scaled inverse chi-square distribution).
    """
    covariance = Kernels(features, features).total(prior) + prior.noise * np.eye(len(residuals))
    squares = float(residuals @ np.linalg.solve(covariance, residuals))
    return max(1.0, (FREEDOM + squares) / (FREEDOM + len(residuals)))


def weights(prior: Prior, effects: Floats, residuals: Floats, plain: Floats | None = None) -> Floats:
    """Return how much each row counts: the weights of Student's t with 4 degrees of freedom.

    They follow, by reweighting, from each row's residual given all other rows (leave-one-out in closed form, Rasmussen
    and Williams, 2006, equations 5.10 to 5.12).

    Args:
        prior: variances of the effects.
        effects: the covariance of the rows' effects.
        residuals: what was measured.
        plain: the inverse of the covariance with all weights one, where it is known already.
    """
    weight = np.ones(len(residuals))
    for turn in range(_REWEIGHTINGS):
        known = plain is not None and turn == 0
        inverse = plain if known and plain is not None else inverted(effects + np.diag(prior.noise / weight))
        weight = (FREEDOM + 1.0) / (FREEDOM + (inverse @ residuals) ** 2 / np.diag(inverse))
    return weight


def inverted(matrix: Floats) -> Floats:
    """Return the inverse of a symmetric positive definite matrix."""
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def without(inverse: Floats, out: NDArray[np.intp], kept: NDArray[np.intp]) -> Floats:
    """Return the inverse of a matrix's ``kept`` rows and columns, from the inverse of the whole (by Schur)."""
    across = inverse[np.ix_(kept, out)]
    found: Floats = inverse[np.ix_(kept, kept)] - across @ np.linalg.solve(inverse[np.ix_(out, out)], across.T)
    return found
