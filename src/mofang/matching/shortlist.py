"""Which of the best candidates are shown: really different choices first, near-twins where there is room for them.

A choice is what ``Plan.choice`` says: hardware, framework, method, and the kind of layout. Candidates are ordered by
what the goal minimises, and one that rests on something unsure counts as a little worse: ``TIGHT`` where the memory
model errs by more than is left, one standard deviation for each way that nobody has measured.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from mofang.domain.plan import layout_kind
from mofang.domain.strategy import Strategy
from mofang.matching.evaluation import Unit
from mofang.matching.headroom import is_tight
from mofang.matching.leaders import COLUMNS
from mofang.matching.plans import strategy_of
from mofang.matching.totals import device_limit
from mofang.matching.unmeasured import unmeasured, untried_deviation

__all__ = ["TIGHT", "picked", "shortlist"]

Floats = NDArray[np.float64]

_FAR = 2.0  # times as bad as the best: beyond, another kind of layout is no choice
TIGHT = 1.03  # what a candidate whose memory may not be enough counts as worse by
_VALUE, _DEVICES, _MEMORY = (COLUMNS.index(name) for name in ("value", "devices", "memory"))


def shortlist(units: Sequence[Unit], rows: Sequence[Floats], many: int) -> Floats:
    """Return (unit, number) of the candidates to show, best first.

    The best of all is there, and the best of each kind of device, method and framework that is among the rows; up to
    half of the places go to other numbers of devices, so that a job has something to start with when its favourite ones
    are taken. What is left goes to the best of other choices, and only then to near-twins.

    Args:
        units: what was searched.
        rows: ``COLUMNS`` of the best candidates, one array a class of candidates that comes before the next.
        many: how many to show at most.
    """
    parts = [_ordered(units, part) for part in rows if len(part)]
    if not parts:
        return np.zeros((0, 2))
    whole = np.concatenate([part for part, _ in parts])
    strategies = [one for _, found in parts for one in found]
    places = list(range(len(whole)))
    unit = [units[index] for index in whole[:, -2].astype(int)]
    devices = whole[:, _DEVICES].astype(int).tolist()

    def hardware(place: int) -> Hashable:
        pool = unit[place].option.pool
        return pool.cluster, pool.accelerator.name

    def choice(place: int) -> Hashable:
        if whole[place, _VALUE] > _FAR * whole[0, _VALUE]:
            return "far"
        return hardware(place), unit[place].framework.name, devices[place], _kind(strategies[place])

    sizes = max(1, many // 2)
    chosen = picked(
        places,
        many,
        (hardware, many),
        (lambda place: unit[place].method, many),
        (lambda place: (hardware(place), unit[place].framework.name), many),
        (lambda place: (hardware(place), devices[place]), sizes),
        (choice, many),
    )
    return whole[chosen, -2:]


def picked(places: Sequence[int], many: int, *levels: tuple[Callable[[int], Hashable], int]) -> list[int]:
    """Return up to ``many`` places, rising: the first of each group, level by level, then whatever comes next.

    Args:
        places: rising, the best first.
        many: how many.
        levels: what groups a level has, and how many places may be taken when it is done.
    """
    chosen: list[int] = list(places[:1])
    for group, most in levels:
        seen = {group(place) for place in chosen}
        for place in places:
            if len(chosen) >= min(many, most):
                break
            if group(place) not in seen:
                seen.add(group(place))
                chosen.append(place)
    taken = set(chosen)
    rest = (place for place in places if place not in taken)
    return sorted([*chosen, *(place for place, _ in zip(rest, range(many - len(chosen)), strict=False))])


def _kind(strategy: Strategy) -> Hashable:
    return strategy.method, strategy.precision, layout_kind(strategy)


def _ordered(units: Sequence[Unit], rows: Floats) -> tuple[Floats, list[Strategy]]:
    """Return a class's rows with the sure before the unsure of about the same value, and their strategies."""
    strategies: list[Strategy | None] = [None] * len(rows)
    worse = np.ones(len(rows))
    for index in np.unique(rows[:, -2]).astype(int):
        unit, here = units[index], np.flatnonzero(rows[:, -2] == index)
        candidates = unit.space.pick(rows[here, -1].astype(np.int64))
        worse[here] = np.where(is_tight(rows[here, _MEMORY], device_limit(unit.pool)), TIGHT, 1.0)
        for row, place in enumerate(here):
            strategies[place] = one = strategy_of(candidates, row, unit.framework)
            worse[place] *= np.exp(untried_deviation() * len(unmeasured(one)))
    keys = rows.copy()
    keys[:, _VALUE] *= worse
    order = np.lexsort(keys[:, ::-1].T)
    return rows[order], [one for place in order if (one := strategies[place]) is not None]
