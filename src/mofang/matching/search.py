"""The search: options -> layouts -> candidates -> estimates -> masks -> ranks -> a few plans and reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.domain.plan import MatchResult, Plan
from mofang.domain.reasons import Reason, Rejection, precedence
from mofang.domain.scenario import Command, Goal, Scenario, Serve
from mofang.errors import UsageError
from mofang.matching.candidates import Layouts, enumerate_candidates, layouts, precisions
from mofang.matching.commands import match_command
from mofang.matching.estimate import estimate
from mofang.matching.memory import host_bytes
from mofang.matching.options import Option, find_options
from mofang.matching.plans import build_plan
from mofang.matching.rejections import (
    batch_rejection,
    device_rejection,
    limit_rejection,
    memory_rejection,
    parallelism_rejection,
    precision_rejection,
    worse_rejection,
)
from mofang.matching.totals import Evaluated, Totals, device_limit, node_limit, totals
from mofang.matching.work import Work, work_of
from mofang.matching.workers import supports

__all__ = ["match"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Searched:
    """One option's candidates and what became of them."""

    found: Evaluated
    feasible: Mask


def match(scenario: Scenario, pools: Sequence[Pool], *, num_plans: int = 8) -> MatchResult:
    """Return the best plans of a scenario on these pools, and why the others are not among them.

    A pool of a cluster is used as ``scenario.resources`` says; a pool that is only described (without a cluster) stands
    for itself. The plans are frozen and ranked by the scenario's goal; ``duration_s`` becomes a number of steps by the
    predicted step time, kept in ``Plan.steps``. Checkpoint intervals in seconds are left to the launcher, which has the
    same estimate. No plan at all is a result too: then ``rejections`` says why.

    Raises:
        UsageError: ``num_plans`` is less than one.
    """
    if num_plans < 1:
        raise UsageError(f"num_plans must be at least 1, not {num_plans}", hint="ask for one plan or more")
    options, rejections = find_options(scenario, pools)
    if isinstance(scenario.task, Command):
        return match_command(scenario, scenario.task, options, rejections, num_plans=num_plans)
    if isinstance(scenario.task, Serve):
        raise UsageError("services cannot be planned yet")
    task = work_of(scenario.task)
    if task.strategy.tp not in {None, 1} or task.strategy.pp not in {None, 1} or task.strategy.cp not in {None, 1}:
        return MatchResult(plans=(), rejections=(parallelism_rejection(task),))
    searched = []
    count = 0
    for option in options:
        found, refused = _search(scenario, task, option)
        rejections += refused
        count += sum(rejection.candidates for rejection in refused)
        if found is not None:
            searched.append(found)
            count += int(found.feasible.sum())
    plans, worse = _best(scenario, searched, num_plans)
    ordered = sorted([*rejections, *worse], key=lambda rejection: precedence(rejection.code))
    return MatchResult(plans=plans, rejections=tuple(ordered), candidates=count)


def _search(scenario: Scenario, task: Work, option: Option) -> tuple[_Searched | None, list[Rejection]]:
    """Return an option's candidates with their estimates, and the rejections among them."""
    pool = option.pool
    found = layouts(pool, option.counts, scenario)
    found = found.where(_wanted(task, found))
    if not len(found):
        return None, [device_rejection(option, scenario)]
    asked = precisions(task.strategy, pool)
    if not asked or not supports(pool, asked[0]):
        return None, [precision_rejection(task, option, len(found))]
    whole = task.global_batch % found.workers == 0
    refused = [] if whole.all() else [batch_rejection(task, option, found.where(~whole))]
    candidates = enumerate_candidates(task, pool, found.where(whole))
    if not len(candidates):
        return None, refused or [batch_rejection(task, option, found)]
    estimates = estimate(task, pool, candidates)
    total = totals(task, pool, candidates, estimates)
    evaluated = Evaluated(task=task, option=option, candidates=candidates, estimates=estimates, totals=total)
    feasible, more = _masks(scenario, evaluated)
    return _Searched(found=evaluated, feasible=feasible), [*refused, *more]


def _wanted(task: Work, found: Layouts) -> Mask:
    """Return which layouts have the workers and threads that the user fixed."""
    choice = task.strategy
    keep = np.ones(len(found), dtype=np.bool_)
    for value, column in ((choice.workers, found.workers), (choice.dp, found.workers), (choice.threads, found.threads)):
        if value is not None:
            keep &= column == value
    return keep


def _masks(scenario: Scenario, found: Evaluated) -> tuple[Mask, list[Rejection]]:
    """Return which candidates are feasible, and one rejection for each reason among the others."""
    pool, memory = found.pool, found.estimates.memory_bytes
    limit = device_limit(pool)
    fits = memory <= limit if limit else np.ones(len(memory), dtype=np.bool_)
    asked = float(scenario.resources.memory_bytes or 0)
    need = np.maximum(host_bytes(found.task, pool, found.candidates, memory), asked)
    fits &= need <= node_limit(pool)
    refused = [] if fits.all() else [memory_rejection(found, need, fits)]
    for reason, values, allowed in (
        (Reason.DEADLINE, found.totals.seconds, scenario.limits.deadline_s),
        (Reason.BUDGET, found.totals.cost, scenario.limits.budget),
    ):
        if allowed is None or values is None:
            continue
        over = fits & (values > allowed)
        if over.any():
            refused.append(limit_rejection(reason, found, values, allowed, over))
            fits = fits & ~over
    return fits, refused


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ranked:
    """All feasible candidates of all options in one order; ``source`` says which option a row is of."""

    source: NDArray[np.int64]
    row: NDArray[np.int64]
    group: NDArray[np.int64]  # alike: same option, number of devices and sharding


def _rank(scenario: Scenario, searched: Sequence[_Searched]) -> _Ranked:
    """Return the feasible candidates, best first.

    Where the user ordered the alternatives their order comes first. What the goal cannot tell apart is decided by time,
    then by fewer devices, then by less memory.
    """
    columns = []
    for index, one in enumerate(searched):
        rows = np.flatnonzero(one.feasible)
        columns.append(_keys(scenario, one, index, rows))
    if not columns:
        empty = np.zeros(0, dtype=np.int64)
        return _Ranked(source=empty, row=empty, group=empty)
    table = np.concatenate(columns)
    order = np.lexsort(table[:, ::-1].T)
    table = table[order]
    source, row = table[:, -2].astype(np.int64), table[:, -1].astype(np.int64)
    devices, sharding = table[:, 4].astype(np.int64), table[:, 6].astype(np.int64)
    return _Ranked(source=source, row=row, group=(source * 2**32 + devices * 8 + sharding))


def _keys(scenario: Scenario, one: _Searched, index: int, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    found = one.found
    size = len(found.candidates)
    value = _goal_value(scenario.goal, found.totals)
    keys = (
        np.full(size, found.option.preference if scenario.resources.ordered else 0),
        np.full(size, value is None),
        found.totals.device_seconds if value is None else value,
        found.totals.seconds,
        found.candidates.devices,
        found.estimates.memory_bytes,
        found.candidates.sharding,
        np.full(size, index),
        np.arange(size),
    )
    return np.stack([np.asarray(key, dtype=np.float64)[rows] for key in keys], axis=1)


def _goal_value(goal: Goal, total: Totals) -> NDArray[np.float64] | None:
    return {Goal.TIME: total.pace, Goal.COST: total.cost, Goal.ENERGY: total.energy_j}[goal]


def _best(
    scenario: Scenario, searched: Sequence[_Searched], num_plans: int
) -> tuple[tuple[Plan, ...], list[Rejection]]:
    """Return the plans to show and one row for the feasible ones left out.

    The best is always among them. Half of the places go to the best of other sizes and shardings, so that a job has
    something to start with when its favourite devices are taken; the rest to the next best of all.
    """
    ranked = _rank(scenario, searched)
    if not len(ranked.row):
        return (), []
    _, firsts = np.unique(ranked.group, return_index=True)
    different = np.sort(firsts)[: max(1, num_plans // 2)]
    others = np.setdiff1d(np.arange(len(ranked.row)), different)[: num_plans - len(different)]
    shown = np.sort(np.concatenate([different, others]))
    plans = [build_plan(scenario, searched[ranked.source[k]].found, int(ranked.row[k])) for k in shown]
    left = len(ranked.row) - len(shown)
    return tuple(plans), [worse_rejection(plans[-1], left)] if left else []
