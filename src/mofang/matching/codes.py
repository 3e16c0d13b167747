"""Distinct combinations of columns: what depends on few columns is computed once a combination, then gathered.

A combination is one integer, mixed from the places of its columns' values (mixed radix), so that nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Axes", "Code", "Combinations", "blocks", "combinations"]

Ints = NDArray[np.int64]

BLOCK = 1 << 14  # rows handled at a time: a few dozen columns of it stay in the cache
_NARROW = 8  # columns whose values are all below are mixed as they are: looking for gaps costs more than they do
_WIDEST = 1 << 20  # largest value whose place is looked up directly
_MOST = 1 << 22  # largest number of possible combinations that are counted rather than sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Combinations:
    """The distinct rows of some columns: row ``place[i]`` of ``columns`` (each of one length) is candidate ``i``'s."""

    place: NDArray[np.intp]
    columns: Mapping[str, Ints]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def blocks(size: int) -> Iterator[slice]:
    """Yield slices that cover ``size`` rows, each small enough to stay in the cache."""
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def combinations(columns: Mapping[str, Ints]) -> Combinations:
    """Return the distinct combinations of columns of non-negative integers (all of one length)."""
    axes = Axes(columns)
    return axes.combinations(axes.code(columns))


@dataclass(frozen=True, slots=True)
class _Axis:
    """A column's possible values, in order; ``places`` leads from value to place (None: a narrow or very wide one)."""

    values: Ints
    places: NDArray[np.intp] | None = None
    narrow: bool = False


@dataclass(frozen=True, slots=True)
class Code:
    """One integer a row, below ``total``, that tells the values of the named columns apart."""

    rows: NDArray[np.intp]
    total: int
    names: tuple[str, ...]


class Axes:
    """Columns of non-negative integers, looked through once for any number of combinations of some of them."""

    def __init__(self, columns: Mapping[str, Ints]) -> None:
        self._columns = columns
        self._axes = {name: _axis(column) for name, column in columns.items()}

    def code(self, names: Iterable[str], more: Code | None = None) -> Code:
        """Return the code of the named columns, and of those of an earlier one."""
        wanted = tuple(names)
        size = len(self._columns[wanted[0]])
        rows = np.zeros(size, dtype=np.intp) if more is None else more.rows.copy()
        total = 1 if more is None else more.total
        for name in wanted:
            axis = self._axes[name]
            if len(axis.values) > 1:
                _mix(rows, axis, self._columns[name], total)
            total *= len(axis.values)
        return Code(rows, total, wanted if more is None else more.names + wanted)

    def combinations(self, code: Code) -> Combinations:
        """Return the distinct combinations that a code tells apart; the code is used up."""
        found, place = _compact(code.rows, code.total)
        columns: dict[str, Ints] = {}
        for name in code.names:
            values = self._axes[name].values
            columns[name] = values[found % len(values)]
            found = found // len(values)
        return Combinations(place=place, columns=columns)


def _axis(column: Ints) -> _Axis:
    if not len(column):
        return _Axis(np.zeros(1, dtype=np.int64))
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
        for rows in blocks(len(code)):
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
    for rows in blocks(len(code)):
        code[rows] = places[code[rows]]
    return np.flatnonzero(seen), code
