"""Tables of what combinations of columns cost, kept while candidates of one work on one pool keep coming.

A search asks block by block, and the blocks ask for the same combinations again and again.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.matching.codes import Combinations
from mofang.matching.microbatch import micro_batches
from mofang.matching.profiles import Profile
from mofang.matching.stages import Stages, stages
from mofang.matching.states import states
from mofang.matching.work import Work

__all__ = ["MOST_ROWS", "Places", "Table", "Tables", "tables_of"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
_SHIFT = np.uint64(32)
MOST_ROWS = 1 << 18  # rows that a table keeps before it starts anew
_KEPT = 8  # works that are remembered
_STAGES = 256  # pipeline stages that the table of stages holds at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where candidates stand in a table: its rows by combination, and each candidate's combination."""

    rows: NDArray[np.intp]
    found: Combinations

    def index(self) -> NDArray[np.intp]:
        """Return every candidate's row."""
        place = self.found.place
        return self.rows.take(place) if len(self.rows) else place

    def where(self, rows: Ints | slice) -> Places:
        """Return some of the candidates (of a grid, some layouts)."""
        return Places(rows=self.rows, found=self.found.where(rows))


class Table:
    """Rows by the combination of columns that they follow from; ``compute`` returns them for new combinations.

    Combinations are known by 64 bits mixed from their columns (multiplicative hashing): of a quarter of a million rows,
    the most that are kept, two share theirs with a probability of 2 in a thousand million.
    """

    def __init__(self, compute: Callable[[Mapping[str, Ints]], Mapping[str, Floats]]) -> None:
        self._compute = compute
        self._known = np.zeros(0, dtype=np.uint64)  # sorted
        self._rows = np.zeros(0, dtype=np.intp)
        self.columns: Mapping[str, Floats] = _nothing()

    def places(self, found: Combinations) -> Places:
        """Return every candidate's row in ``columns``; rows that are not there yet are computed."""
        keys = _keys(found.columns)
        new = np.flatnonzero(~self._has(keys))
        if len(new) and len(self._known) + len(new) > MOST_ROWS:
            self._known, self._rows, self.columns = self._known[:0], self._rows[:0], _nothing()
            new = np.arange(len(keys))
        if len(new):
            self._add(keys[new], {name: column[new] for name, column in found.columns.items()})
        return Places(rows=self._rows[np.searchsorted(self._known, keys)], found=found)

    def _has(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        if not len(self._known):
            return np.zeros(len(keys), dtype=np.bool_)
        near = np.minimum(np.searchsorted(self._known, keys), len(self._known) - 1)
        there: NDArray[np.bool_] = self._known[near] == keys
        return there

    def _add(self, keys: NDArray[np.uint64], combinations: Mapping[str, Ints]) -> None:
        rows = self._compute(combinations)
        places = np.arange(len(self._known), len(self._known) + len(keys))
        order = np.argsort(known := np.concatenate([self._known, keys]))
        self._known, self._rows = known[order], np.concatenate([self._rows, places])[order]
        if self.columns:
            rows = {name: np.concatenate([self.columns[name], column]) for name, column in rows.items()}
        self.columns = rows


def _nothing() -> Mapping[str, Floats]:
    """Return the columns of a table without rows."""
    return defaultdict(lambda: np.zeros(0))


def _keys(columns: Mapping[str, Ints]) -> NDArray[np.uint64]:
    keys = np.zeros(len(next(iter(columns.values()))), dtype=np.uint64)
    for column in columns.values():
        keys = (keys ^ column.astype(np.uint64)) * _MULTIPLIER
        keys ^= keys >> _SHIFT
    return keys


@dataclass(slots=True, kw_only=True)
class Tables:
    """All tables of one work on one pool with one framework."""

    work: Work
    pool: Pool
    profile: Profile
    micro: Table
    states: Table
    stages: Stages

    def staged(self, most: int) -> Stages:
        """Return the table of stages, with at least ``most`` of them."""
        if len(self.stages.fullest) <= most:
            self.stages = stages(self.work.model.layers, 2 * most)
        return self.stages


_TABLES: deque[Tables] = deque(maxlen=_KEPT)


def tables_of(work: Work, pool: Pool, profile: Profile) -> Tables:
    """Return the tables of a work on a pool, those of an earlier call where it asked for the same."""
    for known in _TABLES:
        if known.work is work and known.pool is pool and known.profile is profile:
            return known
    made = Tables(
        work=work,
        pool=pool,
        profile=profile,
        micro=Table(lambda columns: micro_batches(work, pool, profile, columns)),
        states=Table(lambda columns: states(work, pool, profile, columns)),
        stages=stages(work.model.layers, _STAGES),
    )
    _TABLES.append(made)
    return made
