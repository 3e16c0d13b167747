"""Distinct combinations of columns: what depends on few columns is computed once a combination, then gathered.

A combination is one integer, mixed from the places of its columns' values (mixed radix), so that nothing is sorted.
Columns may be those of an open grid (rows of one shape, columns of another, as ``Candidates`` has them): then each kind
is looked through by itself, and every combination of the one meets every combination of the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Axes", "Combinations", "combinations"]

Ints = NDArray[np.int64]

_EMPTY: Ints = np.zeros(0, dtype=np.int64)
_BLOCK = 1 << 14  # rows handled at a time: a few dozen columns of it stay in the cache
_NARROW = 8  # columns whose values are all below are mixed as they are: looking for gaps costs more than they do
_WIDEST = 1 << 20  # largest value whose place is looked up directly
_MOST = 1 << 22  # largest number of possible combinations that are counted rather than sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Combinations:
    """The distinct rows of some columns: row ``place[i]`` of ``columns`` (each of one length) is candidate ``i``'s.

    ``parts`` add up to ``place``, which has the shape that the columns have together: a part for each kind.
    """

    parts: tuple[NDArray[np.intp], ...]
    columns: Mapping[str, Ints]

    @property
    def place(self) -> NDArray[np.intp]:
        """Every candidate's row."""
        first, *others = self.parts
        for other in others:
            first = first + other
        return first

    def where(self, rows: Ints | slice) -> Combinations:
        """Return some of the candidates (of a grid, some layouts) with the same rows."""
        size = np.broadcast_shapes(*(part.shape for part in self.parts))[-1]
        kept = (part[..., rows] if part.shape[-1] == size else part for part in self.parts)
        return Combinations(parts=tuple(kept), columns=self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def _blocks(size: int) -> Iterator[slice]:
    """Yield slices that cover ``size`` rows, each small enough to stay in the cache."""
    for start in range(0, size, _BLOCK):
        yield slice(start, min(start + _BLOCK, size))


def combinations(columns: Mapping[str, Ints]) -> Combinations:
    """Return the distinct combinations of columns of non-negative integers (of one shape, or of an open grid)."""
    return Axes(columns).combinations(columns)


@dataclass(frozen=True, slots=True)
class _Axis:
    """A column's possible values, in order; ``places`` leads from value to place (None: a narrow or very wide one)."""

    values: Ints
    places: NDArray[np.intp] | None = None
    narrow: bool = False


class Axes:
    """Columns of non-negative integers, looked through once for any number of combinations of some of them."""

    def __init__(self, columns: Mapping[str, Ints]) -> None:
        self._columns = columns
        self._axes = {name: _axis(column.ravel()) for name, column in columns.items()}

    def combinations(self, names: Iterable[str]) -> Combinations:
        """Return the distinct combinations of the named columns."""
        alike: dict[tuple[int, ...], list[str]] = {}
        for name in names:
            alike.setdefault(self._columns[name].shape, []).append(name)
        parts = [self._alike(some, shape) for shape, some in alike.items()]
        return parts[0] if len(parts) == 1 else _crossed(parts)

    def _alike(self, names: Sequence[str], shape: tuple[int, ...]) -> Combinations:
        """Return the combinations of columns of one shape."""
        if not math.prod(shape):
            return Combinations(parts=(np.zeros(shape, dtype=np.intp),), columns=dict.fromkeys(names, _EMPTY))
        code, total = np.zeros(math.prod(shape), dtype=np.intp), 1
        for name in names:
            axis = self._axes[name]
            if len(axis.values) > 1:
                _mix(code, axis, self._columns[name].ravel(), total)
            total *= len(axis.values)
        found, place = _compact(code, total)
        columns: dict[str, Ints] = {}
        for name in names:
            values = self._axes[name].values
            columns[name] = values[found % len(values)]
            found = found // len(values)
        return Combinations(parts=(place.reshape(shape),), columns=columns)


def _crossed(parts: Sequence[Combinations]) -> Combinations:
    """Return every combination of one part with every one of the others."""
    places: list[NDArray[np.intp]] = []
    columns, total = dict[str, Ints](), 1
    for part in parts:
        size = len(part)
        places = [place * size for place in places] + [part.place]
        columns = {name: np.repeat(column, size) for name, column in columns.items()}
        columns |= {name: np.tile(column, total) for name, column in part.columns.items()}
        total *= size
    return Combinations(parts=tuple(places), columns=columns)


def _axis(column: Ints) -> _Axis:
    if not len(column):
        return _Axis(_EMPTY)
    least, most = int(column.min()), int(column.max())
    if least == most:
        return _Axis(column[:1])
    if most < _NARROW:
        return _Axis(np.arange(most + 1), narrow=True)
    if most >= _WIDEST:
        return _Axis(np.unique(column))
    seen = np.bincount(column) > 0
    return _Axis(np.flatnonzero(seen), np.cumsum(seen, dtype=np.intp) - 1)


def _mix(code: NDArray[np.intp], axis: _Axis, column: Ints, stride: int) -> None:
    if axis.narrow:
        code += column if stride == 1 else stride * column
    elif axis.places is None:
        code += stride * np.searchsorted(axis.values, column)
    else:
        scaled = stride * axis.places
        for rows in _blocks(len(code)):
            code[rows] += scaled[column[rows]]


def _compact(code: NDArray[np.intp], total: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the codes that occur and, for every row, the place of its code among them."""
    if total == 1:
        return np.zeros(1, dtype=np.intp), code
    if total > _MOST:
        found, place = np.unique(code, return_inverse=True)
        return found, place.ravel()
    seen = np.bincount(code, minlength=total) > 0
    places = np.cumsum(seen, dtype=np.intp) - 1
    for rows in _blocks(len(code)):
        code[rows] = places[code[rows]]
    return np.flatnonzero(seen), code
