"""From what a sweep found to the answer: the plans to show, the front, and the reasons against the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mofang.domain.plan import MatchResult, Plan
from mofang.domain.reasons import Reason, Rejection
from mofang.domain.scenario import Scenario
from mofang.matching.evaluation import Unit, evaluate
from mofang.matching.misfits import memory_rejection
from mofang.matching.options import Option
from mofang.matching.plans import build_plans
from mofang.matching.rejections import limit_rejection, worse_rejection
from mofang.matching.shortlist import shortlist
from mofang.matching.sweep import Sweep
from mofang.matching.tally import group_of
from mofang.matching.work import Work

__all__ = ["answer"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MOST_FRONT = 24  # plans of the front that are made; of a longer one, those evenly spread in time


def answer(scenario: Scenario, work: Work, sweep: Sweep, num_plans: int) -> MatchResult:
    """Return plans, front and rejections of a sweep that has run; ``shortlist`` says which plans are shown."""
    total = sum(len(unit.space) for unit in sweep.units)
    shown = shortlist(sweep.units, [rows for _, rows in sweep.classes()], num_plans)
    plans = _build(scenario, sweep.units, shown)
    rejections = _rejections(scenario, work, sweep)
    left = total - sweep.tally.refused() - len(plans)
    if plans and left > 0:
        rejections.append(worse_rejection(plans[-1], left))
    return MatchResult(
        plans=plans,
        rejections=tuple(rejections),
        candidates=total,
        front=_build(scenario, sweep.units, _front(sweep)),
        estimated=sweep.estimated,
    )


def _front(sweep: Sweep) -> Floats:
    """Return (unit, number) of the front, fastest first; of a long one, evenly spread with both ends."""
    points, keys = sweep.front.ordered()
    if len(keys) <= _MOST_FRONT:
        return keys
    best = [int(np.argmin(column)) for column in points.T if np.isfinite(column).any()]
    spread = np.linspace(0, len(keys) - 1, _MOST_FRONT - len(best)).round().astype(int)
    return keys[sorted({*best, *spread.tolist()})]


def _build(scenario: Scenario, units: Sequence[Unit], keys: Floats) -> tuple[Plan, ...]:
    """Return the plans of (unit, number) in their order; each unit's are estimated together."""
    plans: dict[tuple[int, int], Plan] = {}
    for index in sorted({int(unit) for unit in keys[:, 0]}):
        unit = units[index]
        numbers = keys[keys[:, 0] == index, 1].astype(np.int64)
        found = evaluate(unit, unit.space.pick(numbers))
        made = build_plans(scenario, found)
        plans |= {(index, int(number)): plan for number, plan in zip(numbers, made, strict=True)}
    return tuple(plans[int(unit), int(number)] for unit, number in keys)


def _rejections(scenario: Scenario, work: Work, sweep: Sweep) -> list[Rejection]:
    rows = []
    for option, method in product(_options(sweep.units), work.methods):
        memory = memory_rejection(scenario, work, option, method, sweep.tally)
        rows += [] if memory is None else [memory]
        for reason in (Reason.DEADLINE, Reason.BUDGET):
            closest = sweep.tally.limits.get((reason, group_of(option, method)))
            if closest is not None:
                rows.append(limit_rejection(scenario, reason, closest))
    return rows


def _options(units: Iterable[Unit]) -> list[Option]:
    return list({id(unit.option): unit.option for unit in units}.values())
