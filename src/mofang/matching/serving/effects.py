"""Partial pooling of log residuals: what measurements add to the model's own predictions.

log(measured / predicted) = sum over groups of effect x feature + noise. A group is a framework, a chip, a model kind,
a pair of them, ...; each effect has a normal prior around zero, so that a group with few rows stays near what the other
groups say, and one with none adds nothing but its prior's width (random effects; Gelman and Hill, Data Analysis Using
Regression and Multilevel Models, chapter 12). Rows that no group explains count less: weights of Student's t with four
degrees of freedom (Lange et al., doi:10.1080/01621459.1989.10478852).

How far the truth lies from a prediction differs by regime: where requests flow, where they queue for places, where
prefill and decode are divided. Each regime has its own scale of the interval (Mondrian conformal prediction, Vovk,
Gammerman and Shafer, Algorithmic Learning in a Random World, section 4.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BORROWED",
    "NOISE",
    "REGIME",
    "Block",
    "Effects",
    "Sample",
    "Scale",
    "Sums",
    "fitted_scales",
    "gather",
    "scales_of",
]

Floats = NDArray[np.float64]
Texts = NDArray[np.str_]
Scale = tuple[float, float]  # below and above

BORROWED = "borrowed"  # the feature that says how little a chip's own operators are known, as a log deviation
REGIME = "regime"  # the label that says which scale an interval takes
NOISE = 0.1  # log standard deviation of one measurement repeated
_ROBUST_ROUNDS = 3
_FREEDOM = 4.0
_FEWEST_GROUPS = 4  # of publishers, whose rows say how far a regime is off


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Effects of one kind: one for each level of ``labels`` together and each of ``features``, with this prior."""

    labels: tuple[str, ...]
    features: tuple[str, ...]
    sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows: text by label, numbers by feature."""

    labels: Mapping[str, Texts]
    features: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))

    def where(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Sample:
        """Return the rows that a mask or indices keep."""
        return Sample(
            labels={name: column[rows] for name, column in self.labels.items()},
            features={name: column[rows] for name, column in self.features.items()},
        )

    def levels(self, block: Block) -> Texts:
        """Return each row's level of a block."""
        if not block.labels:
            return np.full(len(self), "all")
        joined = self.labels[block.labels[0]]
        for name in block.labels[1:]:
            joined = np.char.add(np.char.add(joined, "|"), self.labels[name])
        return joined


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """Means and standard deviations by (block, feature, level); a level nobody measured has mean 0 and the prior.

    ``scales`` are, by regime, the factors on standard deviations below and above with which intervals hold what they
    promise on rows left out; a regime that is not there takes the largest.
    """

    blocks: tuple[Block, ...]
    means: Mapping[tuple[int, str, str], float]
    sds: Mapping[tuple[int, str, str], float]
    scales: Mapping[str, Scale] = field(default_factory=dict)

    def predict(self, sample: Sample) -> tuple[Floats, Floats]:
        """Return the mean of each row's log ratio and its standard deviations below and above (rows x 2).

        The noise of a measurement is included.
        """
        mean, variance = np.zeros(len(sample)), np.full(len(sample), NOISE**2)
        for index, block in enumerate(self.blocks):
            levels, inverse = np.unique(sample.levels(block), return_inverse=True)
            for feature in block.features:
                keys = [(index, feature, str(level)) for level in levels]
                values = sample.features[feature]
                mean += values * np.array([self.means.get(key, 0.0) for key in keys])[inverse]
                variance += (values * np.array([self.sds.get(key, block.sd) for key in keys])[inverse]) ** 2
        return mean, np.sqrt(variance)[:, None] * scales_of(self.scales, sample.labels[REGIME])


@dataclass(frozen=True, slots=True)
class Sums:
    """The normal equations of weighted rows: they can be taken out again, group by group."""

    blocks: tuple[Block, ...]
    keys: tuple[tuple[int, str, str], ...]
    design: Floats  # rows x effects
    wanted: Floats
    weights: Floats

    def solve(self, without: NDArray[np.bool_] | None = None) -> tuple[Floats, Floats]:
        """Return the effects' means and standard deviations, some rows left out."""
        weights = self.weights if without is None else np.where(without, 0.0, self.weights)
        return _solve(self, weights)

    def effects(self, scales: Mapping[str, Scale]) -> Effects:
        """Return the effects of all rows."""
        means, sds = self.solve()
        return Effects(
            blocks=self.blocks,
            means=dict(zip(self.keys, means.tolist(), strict=True)),
            sds=dict(zip(self.keys, sds.tolist(), strict=True)),
            scales=scales,
        )

    def held_out(self, groups: Texts) -> tuple[Floats, Floats]:
        """Return each row's mean and standard deviation (unscaled) from a fit without its group."""
        mean, sd = np.zeros(len(self.wanted)), np.zeros(len(self.wanted))
        whole, right = self._normal(slice(None))
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            part, part_right = self._normal(rows)
            means, variances = _inverted(whole - part, right - part_right)
            mean[rows] = self.design[rows] @ means
            sd[rows] = np.sqrt(self.design[rows] ** 2 @ variances + NOISE**2)
        return mean, sd

    def _normal(self, rows: NDArray[np.intp] | slice) -> tuple[Floats, Floats]:
        design, weights = self.design[rows], self.weights[rows]
        matrix = (design.T * weights) @ design
        if isinstance(rows, slice):
            matrix = matrix + np.diag(_precisions(self))
        return matrix, (design.T * weights) @ self.wanted[rows]


def _precisions(sums: Sums) -> Floats:
    return np.array([sums.blocks[index].sd ** -2.0 for index, _, _ in sums.keys])


def _inverted(matrix: Floats, right: Floats) -> tuple[Floats, Floats]:
    inverse = np.linalg.inv(matrix)
    return inverse @ right, np.diag(inverse)


def _solve(sums: Sums, weights: Floats) -> tuple[Floats, Floats]:
    matrix = (sums.design.T * weights) @ sums.design + np.diag(_precisions(sums))
    means, variances = _inverted(matrix, (sums.design.T * weights) @ sums.wanted)
    return means, np.sqrt(variances)


def gather(blocks: Sequence[Block], sample: Sample, wanted: Floats) -> Sums:
    """Return the normal equations of measured rows, with their robust weights."""
    columns: list[Floats] = []
    keys: list[tuple[int, str, str]] = []
    for index, block in enumerate(blocks):
        levels, inverse = np.unique(sample.levels(block), return_inverse=True)
        member = (inverse[:, None] == np.arange(len(levels))[None, :]).astype(np.float64)
        for feature in block.features:
            columns.append(member * sample.features[feature][:, None])
            keys += [(index, feature, str(level)) for level in levels]
    design = np.concatenate(columns, axis=1)
    sums = Sums(tuple(blocks), tuple(keys), design, wanted, np.full(len(wanted), NOISE**-2.0))
    for _ in range(_ROBUST_ROUNDS):
        means, _sds = sums.solve()
        surprise = ((wanted - design @ means) / NOISE) ** 2
        weights = NOISE**-2.0 * np.minimum((_FREEDOM + 1.0) / (_FREEDOM + surprise), 1.0)
        sums = Sums(sums.blocks, sums.keys, design, wanted, weights)
    return sums


def fitted_scales(
    residuals: Floats, sds: Floats, regimes: Texts, groups: Texts, level: float = 0.9
) -> Mapping[str, Scale]:
    """Return, by regime, the factors on standard deviations that leave equal parts of residuals below and above.

    Split conformal prediction (arXiv:1604.04173) with the model's own standard deviation as the measure of difficulty,
    each side by itself, since what is left out of a model of time makes it too short rather than too long. No side
    takes less than the deviation itself: rows left out that all lie on one side say nothing of the other. A regime with
    rows of fewer than ``_FEWEST_GROUPS`` groups takes no smaller factors than all rows together.

    Args:
        residuals: of rows, each from a fit without its group.
        sds: their standard deviations, unscaled.
        regimes: of the rows.
        groups: who published each row.
        level: the part of rows that intervals are to hold.
    """
    ratios = residuals / sds
    whole = _scale(ratios, level)
    scales: dict[str, Scale] = {}
    for regime in np.unique(regimes):
        here = regimes == regime
        own = _scale(ratios[here], level)
        known = len(np.unique(groups[here])) >= _FEWEST_GROUPS
        scales[str(regime)] = own if known else (max(own[0], whole[0]), max(own[1], whole[1]))
    return scales


def scales_of(scales: Mapping[str, Scale], regimes: Texts) -> Floats:
    """Return the factors below and above of every row (rows x 2)."""
    most = tuple(np.max(list(scales.values()), axis=0)) if scales else (1.0, 1.0)
    found: Floats = np.array([scales.get(str(regime), most) for regime in regimes]).reshape(-1, 2)
    return found


def _scale(ratios: Floats, level: float) -> Scale:
    if not len(ratios):
        return 1.0, 1.0
    normal, beyond = 1.6448536269514722, (1.0 - level) / 2.0  # the 95th percentile: a two-sided interval of 90 %
    low, high = np.quantile(ratios, [beyond, 1.0 - beyond]) / normal
    return max(-float(low), 1.0), max(float(high), 1.0)
