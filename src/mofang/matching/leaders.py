"""The best candidates seen so far: a few rows, and the value beyond which nothing can join them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "Leaders", "first_of_groups", "merged"]

Floats = NDArray[np.float64]

# The columns of a row, in the order of comparison; the last two say which candidate it is.
COLUMNS = ("value", "seconds", "devices", "memory", "sharding", "unit", "number")
_VALUE, _DEVICES, _SHARDING, _UNIT = 0, 2, 4, 5


class Leaders:
    """Keeps the ``many`` best rows, and the best row of each of the ``groups`` best groups.

    A group is what is alike in unit, devices and sharding. What the goal cannot tell apart is decided by time, then by
    fewer devices, less memory, simpler sharding, and last by the order of enumeration, so that the result does not
    depend on the order in which candidates are offered.
    """

    def __init__(self, many: int, groups: int) -> None:
        self._many, self._groups = many, groups
        self.rows: Floats = np.zeros((0, len(COLUMNS)))
        self._row_limit = self._group_limit = float("inf")
        self._best: dict[int, float] = {}

    @property
    def limit(self) -> float:
        """A candidate with a larger value cannot become one of the kept."""
        return max(self._row_limit, self._group_limit)

    def offer(self, value: Floats, groups: Callable[[], NDArray[np.int64]], rows: Callable[..., Floats]) -> None:
        """Take what belongs among the leaders.

        Args:
            value: what the goal minimises, one a candidate; infinite where it is not feasible.
            groups: gives the candidates' groups (devices and sharding; one call is of one unit).
            rows: gives the rows (``COLUMNS``) of some candidates by index.
        """
        if self._group_limit < float("inf"):
            chosen = np.flatnonzero(value <= self.limit)
        else:
            chosen = np.flatnonzero((value <= self._row_limit) | (value <= self._best_of(groups())))
        chosen = chosen[np.isfinite(value[chosen])]
        if len(chosen):
            self._merge(rows(chosen))

    def _best_of(self, groups: NDArray[np.int64]) -> Floats:
        found, place = np.unique(groups, return_inverse=True)
        return np.array([self._best.get(int(group), float("inf")) for group in found])[place.ravel()]

    def _merge(self, rows: Floats) -> None:
        self.rows = merged(np.concatenate([self.rows, rows]), self._many, self._groups)
        if len(self.rows) >= self._many:
            self._row_limit = float(self.rows[self._many - 1, _VALUE])
        firsts = first_of_groups(self.rows)
        self._best = {_group(self.rows[place]): float(self.rows[place, _VALUE]) for place in firsts}
        if len(firsts) >= self._groups:
            self._group_limit = float(self.rows[firsts[self._groups - 1], _VALUE])


def merged(rows: Floats, many: int, groups: int) -> Floats:
    """Return the rows in order: the ``many`` best, and the firsts of the ``groups`` best groups."""
    rows = rows[np.lexsort(rows[:, ::-1].T)]
    keep = np.zeros(len(rows), dtype=np.bool_)
    keep[:many] = True
    keep[first_of_groups(rows)[:groups]] = True
    return rows[keep]


def first_of_groups(rows: Floats) -> NDArray[np.intp]:
    """Return the places of each group's first row, rising."""
    codes = rows[:, _UNIT] * 2.0**32 + rows[:, _DEVICES] * 8.0 + rows[:, _SHARDING]
    return np.sort(np.unique(codes, return_index=True)[1])


def _group(row: Floats) -> int:
    return int(row[_UNIT] * 2**32 + row[_DEVICES] * 8 + row[_SHARDING])
