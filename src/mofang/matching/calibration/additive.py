"""The expected residual of millions of candidates: for one work on one kind of chip it is a sum over columns.

Every term depends on what all candidates of a call share, and beside that either on how they are run (precision,
recompute ...) or on one column of the layout. So a candidate's residual is one entry of a table a column, added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mofang.matching.calibration.features import LAYOUT, WAYS
from mofang.matching.calibration.process import Posterior, Term
from mofang.matching.candidates import Candidates

__all__ = ["Additive"]

Floats = NDArray[np.float64]

_OCTAVES = 14
_MOST = 1 << _OCTAVES  # larger values of a column are as this one
_GRID = 8  # points a factor of two where a column has many values


class Additive:
    """Tables of one call: ``labels`` and ``sizes`` are those that all its candidates share."""

    def __init__(self, posterior: Posterior, labels: Mapping[str, str], sizes: Mapping[str, float]) -> None:
        self._posterior = posterior
        self._shared = posterior.prior.shared * float(posterior.solved.sum())
        self._by_way: list[tuple[tuple[str, ...], Floats]] = []
        self._by_size: dict[str, list[tuple[Term, Floats]]] = {name: [] for name in LAYOUT}
        for term, variance in posterior.prior.variances.items():
            self._add(term, variance * posterior.solved * self._match(term, labels, sizes))
        self._ways = np.full(int(np.prod([len(values) for values in WAYS.values()])), np.nan)
        self._grids = {name: np.zeros(0) for name in LAYOUT}
        self._tables = {name: np.zeros(0) for name in LAYOUT}

    def _match(self, term: Term, labels: Mapping[str, str], sizes: Mapping[str, float]) -> Floats:
        """Return how alike every observation is in what the candidates of the call share."""
        known = self._posterior.features
        found = np.ones(len(known))
        for name in term.labels:
            if name in labels:
                found *= (known.labels[name] == labels[name]) & (labels[name] != "")
        for name in term.sizes:
            if name in sizes:
                found *= np.exp(-0.5 * ((known.sizes[name] - sizes[name]) / term.reach) ** 2)
        return found

    def _add(self, term: Term, weight: Floats) -> None:
        ways = tuple(name for name in term.labels if name in WAYS)
        layout = [name for name in term.sizes if name in LAYOUT]
        if (ways and layout) or len(layout) > 1:
            raise ValueError(f"term {term} is no sum over columns")
        if not weight.any():
            return
        if ways:
            self._by_way.append((ways, weight))
        elif layout:
            self._by_size[layout[0]].append((term, weight))
        else:
            self._shared += float(weight.sum())

    def mean(self, candidates: Candidates) -> Floats:
        """Return the expected residual of every candidate."""
        return self._way_means(candidates) + self._layout_means(candidates)

    def ratio(self, candidates: Candidates) -> Floats:
        """Return the exponential of every candidate's expected residual: a product, as that is a sum."""
        return np.exp(self._way_means(candidates)) * np.exp(self._layout_means(candidates))

    def least(self) -> float:
        """Return what the residual of no candidate is below."""
        ways = sum(self._least_way(names, weight) for names, weight in self._by_way)
        return self._shared + ways + sum(float(self._points(name).min()) for name in LAYOUT)

    def _least_way(self, names: tuple[str, ...], weight: Floats) -> float:
        known = self._posterior.features.labels
        texts = known[names[0]]
        for name in names[1:]:
            texts = np.char.add(np.char.add(texts, "|"), known[name])
        _, group = np.unique(texts, return_inverse=True)
        return float(np.bincount(group, weight).min(initial=0.0))

    def _layout_means(self, candidates: Candidates) -> Floats:
        found = np.zeros(candidates.nodes.shape)
        for name in LAYOUT:
            if self._by_size[name]:
                found += self._table(name)[np.minimum(getattr(candidates, name), _MOST)]
        return found

    def _way_means(self, candidates: Candidates) -> Floats:
        code = np.zeros(candidates.precision.shape, dtype=np.int64)
        for name, values in WAYS.items():
            code *= len(values)
            code += getattr(candidates, name)
        found = self._ways[code]
        new = np.unique(code[np.isnan(found)])
        if len(new):
            self._ways[new] = [self._way_mean(int(one)) for one in new]
            found = self._ways[code]
        return found

    def _way_mean(self, code: int) -> float:
        texts = {}
        for name, values in reversed(list(WAYS.items())):
            code, place = divmod(code, len(values))
            texts[name] = values[place]
        known, total = self._posterior.features.labels, self._shared
        for ways, weight in self._by_way:
            alike = np.logical_and.reduce([known[name] == texts[name] for name in ways])
            total += float(weight[alike].sum())
        return total

    def _table(self, name: str) -> Floats:
        """Return what each value of a column up to ``_MOST`` adds: linear between the points."""
        if not len(self._tables[name]):
            points, (place, part) = self._points(name), _positions()
            self._tables[name] = points[place] + part * np.diff(points)[place]
        return self._tables[name]

    def _points(self, name: str) -> Floats:
        """Return what the grid's values of a column add."""
        if not len(self._grids[name]):
            self._grids[name] = self._sums(name)
        return self._grids[name]

    def _sums(self, name: str) -> Floats:
        grid = np.arange(_OCTAVES * _GRID + 1) / _GRID
        points = np.zeros_like(grid)
        for term, weight in self._by_size[name]:
            rows = np.flatnonzero(weight)
            gaps = grid[:, None] - self._posterior.features.sizes[name][rows][None, :]
            points += np.exp(-0.5 * (gaps / term.reach) ** 2) @ weight[rows]
        return points


@cache
def _positions() -> tuple[NDArray[np.intp], Floats]:
    """Return where each value up to ``_MOST`` lies on the grid: the point below it, and the part of the way on."""
    octaves = np.log2(np.maximum(np.arange(_MOST + 1, dtype=np.float64), 1.0)) * _GRID
    place = np.minimum(octaves.astype(np.intp), _OCTAVES * _GRID - 1)
    return place, octaves - place
