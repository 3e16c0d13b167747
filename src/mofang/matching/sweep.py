"""One pass over the units of a search: bounds first, then memory, then everything, for what may still be shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mofang.domain.reasons import Reason
from mofang.domain.scenario import Goal, Scenario
from mofang.matching.bounds import Bounds, Least, bounds, coarse, frugal_ways
from mofang.matching.enumeration import Product
from mofang.matching.evaluation import Evaluated, Ready, Unit, fitting
from mofang.matching.leaders import COLUMNS, Leaders
from mofang.matching.pareto import Front
from mofang.matching.profiles import profile_of
from mofang.matching.schedule import tabulate
from mofang.matching.tally import Tally, some_way
from mofang.matching.totals import device_power

__all__ = ["Sweep", "goal_values"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_GOALS = (Goal.TIME, Goal.COST, Goal.ENERGY)
_ROWS = 1 << 12  # layouts whose memory is looked at together
_FIRST_BLOCK, _MOST_BLOCK = 1 << 12, 1 << 17  # candidates evaluated together: few at first, as each tells what to skip
_GRID_BLOCK = 1 << 15  # the same where all are evaluated: what is computed of them stays in the cache
_MOST_LOOKED_UP = 1 << 20  # and of those that are looked up in tables together
_WORTH = 0.9  # part of them beyond which those that do not fit are not picked out first
Class = tuple[int, bool, str]  # preference, whether the goal is unknown, method


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One product of one unit with its bounds; ``value`` is the least value of the goal of each layout."""

    unit: Unit
    product: Product
    bounds: Bounds
    value: Floats


@dataclass(slots=True, kw_only=True)
class Sweep:
    """What has been found so far.

    Candidates are left out where even the bound of their layout is behind what will be shown in the goal asked for,
    and some point of the front is nowhere worse than it in any goal.
    """

    scenario: Scenario
    units: Sequence[Unit]
    num_plans: int
    prune: bool = True
    leaders: dict[Class, Leaders] = field(default_factory=dict)
    pools: dict[tuple[tuple[int, bool], int], Leaders] = field(default_factory=dict)
    front: Front = field(default_factory=lambda: Front(len(_GOALS)))
    tally: Tally = field(default_factory=Tally)
    estimated: int = 0
    block: int = _FIRST_BLOCK

    def run(self) -> None:
        """Look at everything, the most promising first."""
        least = {unit.index: coarse(unit) for unit in self.units}
        values = {unit.index: float(self._value(unit, least[unit.index])[0]) for unit in self.units}
        for unit in sorted(self.units, key=lambda unit: (self._class(unit)[:2], values[unit.index], unit.index)):
            points = _points(least[unit.index], np.zeros(1, dtype=np.int64))
            hopeless = values[unit.index] > self._limit(unit) and not self.front.may_join(points)[0]
            if not (self.prune and hopeless):
                self._search(unit)

    def _search(self, unit: Unit) -> None:
        products = [one for one in unit.space.products if len(one)]
        if self.prune:
            for item in self._items(unit, products):
                self._visit(item)
            return
        tabulate(unit.work, unit.pool, unit.space.grid(), profile_of(unit.framework))
        for one in products:
            self._look_at_all(unit, one)

    def _items(self, unit: Unit, products: Sequence[Product]) -> list[_Item]:
        found = []
        for one in products:
            bound = bounds(unit, one)
            found.append(_Item(unit=unit, product=one, bounds=bound, value=self._value(unit, bound.layouts())))
        return sorted(found, key=lambda item: float(item.value.min()))

    def _value(self, unit: Unit, least: Least) -> Floats:
        if self._class(unit)[1]:
            return least.device_seconds
        return {Goal.TIME: least.pace, Goal.COST: least.cost, Goal.ENERGY: least.energy}[self.scenario.goal]

    def _class(self, unit: Unit) -> Class:
        pool, goal = unit.pool, self.scenario.goal
        priced = {
            Goal.TIME: True,
            Goal.COST: pool.price_per_device_hour is not None,
            Goal.ENERGY: device_power(pool) is not None,
        }
        preference = unit.option.preference if self.scenario.resources.ordered else 0
        return preference, not priced[goal], unit.method.value

    def _leaders(self, unit: Unit) -> Leaders:
        return self.leaders.setdefault(
            self._class(unit), Leaders(many=self.num_plans, groups=max(1, self.num_plans // 2))
        )

    def _best_of_pool(self, unit: Unit) -> tuple[Leaders, ...]:
        """Return who keeps the best candidate of the unit's pool, where there are places for all pools."""
        pools = {id(one.option.pool) for one in self.units}
        if not 1 < len(pools) <= self.num_plans:
            return ()
        key = (self._class(unit)[:2], id(unit.option.pool))
        return (self.pools.setdefault(key, Leaders(many=1, groups=1)),)

    def _limit(self, unit: Unit) -> float:
        """Return the value beyond which no candidate of the unit will be shown."""
        return max(leaders.limit for leaders in (self._leaders(unit), *self._best_of_pool(unit)))

    def _visit(self, item: _Item) -> None:
        """Look at a product's layouts by rising bound of the goal, then at those that only the front may want."""
        order = np.argsort(item.value, kind="stable")
        place = 0
        while place < len(order) and item.value[order[place]] <= self._limit(item.unit):
            rows = order[place : place + _ROWS]
            rows = rows[item.value[rows] <= self._limit(item.unit)]
            place += len(rows)
            self._look(item, rows)
        rest = order[place:]
        rest = rest[self.front.may_join(_points(item.bounds.layouts(), rest))]
        for start in range(0, len(rest), _ROWS):
            self._look(item, rest[start : start + _ROWS])

    def _look(self, item: _Item, rows: Ints) -> None:
        """Look at some layouts: at those that could fit, in the ways that are still wanted when their turn comes."""
        rows = self._fitting(item, rows)
        one, many, place = item.product, len(item.product.ways), 0
        while place < len(rows):
            chosen = rows[place : place + max(1, self.block // max(1, many))]
            place += len(chosen)
            layouts, ways = np.divmod(self._wanted(item, chosen), many)
            pairs = chosen[layouts], ways
            if len(ways):
                self._evaluate(one.numbers(*pairs), Ready.of(item.unit, one.take(*pairs)))
                self.block = min(2 * self.block, _MOST_BLOCK)

    def _look_at_all(self, unit: Unit, one: Product) -> None:
        """Look at every layout in every way."""
        for chunk in _cut(np.arange(len(one.layouts)), _MOST_LOOKED_UP // len(one.ways)):
            rows, ways = one.grid(chunk)
            ready = Ready.of(unit, one.take(rows, ways), timed=True)
            for some in _cut(np.arange(len(chunk)), _GRID_BLOCK // len(one.ways)):
                part = slice(int(some[0]), int(some[-1]) + 1)
                self._evaluate(one.numbers(rows[:, part], ways), ready.where(part))

    def _wanted(self, item: _Item, rows: Ints) -> Ints:
        """Return the places of the candidates that may still be shown, among these layouts in every way."""
        least = item.bounds.candidates(rows)
        wanted = (self._value(item.unit, least) <= self._limit(item.unit)).ravel()
        rest = np.flatnonzero(~wanted)
        wanted[rest[self.front.may_join(_points(least, rest))]] = True
        return np.flatnonzero(wanted)

    def _fitting(self, item: _Item, rows: Ints) -> Ints:
        """Return the layouts that fit in the way that needs least memory."""
        unit, one = item.unit, item.product
        frugal = frugal_ways(one.ways)
        if unit.pool.is_cpu or len(frugal) == len(one.ways):
            return rows
        pairs = one.grid(rows, frugal)
        fit = fitting(self.scenario, unit, one.take(*pairs))
        fits = some_way(~fit.over_device)
        if not fits.all():
            out = np.broadcast_to(~fits, fit.over_device.shape)
            self.tally.too_large(
                unit, one.numbers(*pairs)[out], fit.device_bytes[out], int((~fits).sum()) * len(one.ways)
            )
        return rows[fits]

    def _evaluate(self, numbers: Ints, ready: Ready) -> None:
        unit, fit = ready.unit, ready.fitting(self.scenario)
        self.tally.memory(unit, numbers, fit)
        kept = np.flatnonzero(some_way(fit.fits))
        if not len(kept):
            return
        fits, memory = fit.fits, fit.device_bytes
        if len(kept) < _WORTH * fits.shape[-1]:
            ready = ready.where(kept)
            numbers, fits, memory = numbers[..., kept], fits[..., kept], memory[..., kept]
        found = ready.evaluate()
        self.estimated += int(np.count_nonzero(fits))
        feasible = self._feasible(unit, numbers, found, fits)
        self.tally.feasible(unit, numbers, found.candidates.devices, feasible)
        value, points = goal_values(self.scenario.goal, found), _values(found)
        if not feasible.all():
            value = np.where(feasible, value, np.inf)
            np.copyto(points.T, np.inf, where=~feasible.ravel())
        self._offer(unit, numbers, found, value, memory)
        self._join(unit, numbers, points)

    def _feasible(self, unit: Unit, numbers: Ints, found: Evaluated, fits: Mask) -> Mask:
        """Return which candidates that fit keep the user's limits too."""
        limits = self.scenario.limits
        for reason, values, allowed in (
            (Reason.DEADLINE, found.totals.seconds, limits.deadline_s),
            (Reason.BUDGET, found.totals.cost, limits.budget),
        ):
            if allowed is None or values is None:
                continue
            beyond = fits & (values > allowed)
            self.tally.limit(reason, unit, numbers, values, beyond)
            fits = fits & ~beyond
        return fits

    def _offer(self, unit: Unit, numbers: Ints, found: Evaluated, value: Floats, memory: Floats) -> None:
        candidates, total = found.candidates, found.totals

        def groups() -> Ints:
            return (unit.index * 2**32 + candidates.devices * 8 + candidates.sharding).ravel()

        def rows(chosen: NDArray[np.intp]) -> Floats:
            columns = {
                "value": value, "seconds": total.seconds, "devices": candidates.devices, "memory": memory,
                "sharding": candidates.sharding, "unit": np.array(unit.index), "number": numbers,
            }  # fmt: skip
            shape = candidates.shape
            at = np.unravel_index(chosen, shape)
            picked = (np.broadcast_to(columns[name], shape)[at] for name in COLUMNS)
            return np.stack([column.astype(np.float64) for column in picked], axis=1)

        for leaders in (self._leaders(unit), *self._best_of_pool(unit)):
            leaders.offer(value.ravel(), groups, rows)

    def _join(self, unit: Unit, numbers: Ints, points: Floats) -> None:
        joining = np.flatnonzero(self.front.may_join(points))
        joining = joining[np.isfinite(points[joining]).any(axis=1)]
        if len(joining):
            keys = np.stack(
                [np.full(len(joining), float(unit.index)), numbers.ravel()[joining].astype(np.float64)], axis=1
            )
            self.front.add(points[joining], keys)

    def classes(self) -> Iterator[tuple[tuple[int, bool], Floats]]:
        """Yield the rows of each preference and of known and unknown goals, all methods and pools together."""
        for order in sorted({name[:2] for name in self.leaders}):
            parts = [one.rows for name, one in sorted(self.leaders.items()) if name[:2] == order]
            parts += [one.rows for (other, _), one in self.pools.items() if other == order]
            yield order, np.unique(np.concatenate(parts), axis=0)


def _cut(rows: Ints, many: int) -> Iterator[Ints]:
    """Yield the rows, ``many`` at a time but at least one."""
    for start in range(0, len(rows), max(1, many)):
        yield rows[start : start + max(1, many)]


def goal_values(goal: Goal, found: Evaluated) -> Floats:
    """Return what the goal minimises; device-seconds where that is unknown."""
    total = found.totals
    value = {Goal.TIME: total.pace, Goal.COST: total.cost, Goal.ENERGY: total.energy_j}[goal]
    return total.device_seconds if value is None else value


def _points(least: Least, rows: Ints) -> Floats:
    """Return the bounds in every goal of some candidates or layouts, by their place."""
    return np.stack([column.ravel()[rows] for column in (least.pace, least.cost, least.energy)], axis=1)


def _values(found: Evaluated) -> Floats:
    """Return every goal of the candidates as points; infinite where one is unknown."""
    total = found.totals
    columns = (total.pace, total.cost, total.energy_j)
    points = np.full((len(columns), len(found.candidates)), np.inf)
    for row, column in zip(points, columns, strict=True):
        if column is not None:
            row[:] = column.ravel()
    return points.T  # a goal's values lie side by side
