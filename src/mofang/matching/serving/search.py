"""The search for a service: options x frameworks -> spaces -> tables -> operating points -> plans and reasons."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from mofang.catalog.frameworks import Framework, frameworks
from mofang.domain.hardware import Pool
from mofang.domain.plan import MatchResult, Plan
from mofang.domain.reasons import Rejection, precedence
from mofang.domain.scenario import Scenario, Serve
from mofang.errors import UsageError
from mofang.matching.experience import Experience
from mofang.matching.options import Option, find_options
from mofang.matching.serving.disaggregated import Divided, divide
from mofang.matching.serving.divided_plans import divided_plan
from mofang.matching.serving.plans import build_plan
from mofang.matching.serving.ranking import Ranked, rank
from mofang.matching.serving.refusals import (
    closest,
    form_rejection,
    framework_rejection,
    level_rejection,
    memory_rejection,
    room_rejection,
    worse_rejection,
)
from mofang.matching.serving.samples import model_kind
from mofang.matching.serving.space import Space, space_of
from mofang.matching.serving.table import Table, table_of
from mofang.matching.shortlist import picked

__all__ = ["match_service"]

_SURE = 0.9  # probability of keeping the level that one of the plans shown should have


def match_service(
    scenario: Scenario, pools: Sequence[Pool], num_plans: int = 8, *, known: Experience | None = None
) -> MatchResult:
    """Return the best deployments of a service on these pools, and why the others are not among them.

    Only what can be deployed is estimated: the framework runs on the chip, builds the model, and serves in the format;
    heads and experts divide; weights and the longest request fit. What ``goal`` minimises is said at
    ``ranking.goal_values``. No plan at all is a result too: then ``rejections`` says why, with the best figure that
    could be reached.

    Raises:
        UsageError: the scenario is not a service, ``num_plans`` is less than one, or the traffic states both a rate and
            a concurrency, or one that is not above zero.
    """
    task = scenario.task
    if not isinstance(task, Serve):
        raise UsageError(f"a service is planned here, not {task.kind}", hint="use match")
    _check(task, num_plans)
    options, rejections = find_options(scenario, pools, known)
    tables: list[Table] = []
    for option in options:
        found, refused = _tables(task, option)
        tables += found
        rejections += refused
    ranked, refused = _ranked(scenario, task, tables)
    divided = divide(scenario, task, tables) if task.disaggregated is not False else ()
    plans, left = _best(task, [] if task.disaggregated else ranked, divided, num_plans)
    rejections += refused
    rejections += [worse_rejection(plans[-1], left)] if left and plans else []
    count = sum(len(one) for one in ranked) + len(divided)
    ordered = sorted(rejections, key=lambda rejection: precedence(rejection.code))
    return MatchResult(plans=plans, rejections=tuple(ordered), candidates=count, estimated=count)


def _check(task: Serve, num_plans: int) -> None:
    traffic, level = task.traffic, task.level
    if num_plans < 1:
        raise UsageError(f"num_plans must be at least 1, not {num_plans}", hint="ask for one plan or more")
    if traffic.rate is not None and traffic.concurrency is not None:
        raise UsageError("traffic states both a rate and a concurrency", hint="state one of them, or neither")
    for name, value in (
        ("rate", traffic.rate),
        ("concurrency", traffic.concurrency),
        ("ttft_s", level.ttft_s),
        ("tpot_s", level.tpot_s),
    ):
        if value is not None and not value > 0:
            raise UsageError(f"{name} must be above zero, not {value}", hint="leave it out where there is no limit")
    if not 0.0 < level.percentile < 1.0:
        raise UsageError(f"percentile must lie between 0 and 1, not {level.percentile}", hint="write 0.95 for 95 %")


def _suitable(task: Serve, option: Option) -> list[Framework]:
    """Return the frameworks that Mofang can start, that run on the option's devices and build the model."""
    asked, cpu = task.strategy.framework, option.pool.is_cpu
    vendor = "" if cpu else option.pool.accelerator.vendor
    return [
        one
        for one in frameworks().values()
        if "serve" in one.tasks
        and (one.launcher if asked is None else one.name == asked)
        and one.runs_on(vendor)
        and model_kind(task.model) in one.models
    ]


def _tables(task: Serve, option: Option) -> tuple[list[Table], list[Rejection]]:
    """Return the tables of an option, one a framework, and why others have none."""
    suitable = _suitable(task, option)
    if not suitable:
        names = [one.name for one in frameworks().values() if "serve" in one.tasks]
        return [], [framework_rejection(task, option, names)]
    tables, refused, large = [], [], []
    for framework in suitable:
        space: Space = space_of(task, option, framework)
        if not len(space.cut):
            refused.append(form_rejection(task, space))
            continue
        table = table_of(task.model, task.traffic, space)
        if not table.fits.all():
            large.append(memory_rejection(task, table))
        if table.fits.any():
            tables.append(table)
    return tables, [*refused, *closest(large)]


def _ranked(scenario: Scenario, task: Serve, tables: Sequence[Table]) -> tuple[list[Ranked], list[Rejection]]:
    ranked, refused = [], []
    missed: dict[int, list[Rejection]] = {}
    for table in tables:
        one = rank(scenario, task, table)
        if not len(one):
            refused.append(room_rejection(table))
            continue
        if not one.feasible.all():
            missed.setdefault(id(table.space.option), []).append(level_rejection(task, one))
        ranked.append(one)
    return ranked, [*refused, *(row for rows in missed.values() for row in closest(rows))]


def _best(
    task: Serve, ranked: Sequence[Ranked], divided: Sequence[Divided], num_plans: int
) -> tuple[tuple[Plan, ...], int]:
    """Return the plans to show, and how many feasible candidates are left out.

    The best is always among them, the best that is sure to keep its level (or comes nearest to it), and the best of
    each kind of chip and of each framework on it; up to half of the places go to other numbers of devices. What is left
    goes to other formats of the weights, and only then to near-twins.
    """
    entries = [
        (*one.keys[index].tolist(), source, int(index))
        for source, one in enumerate(ranked)
        for index in np.flatnonzero(one.feasible)
    ]
    entries += [(*one.keys, len(ranked), index) for index, one in enumerate(divided)]
    entries.sort()
    kinds = [
        _kind(divided[index]) if source == len(ranked) else _alike(ranked[source], index)
        for *_, source, index in entries
    ]
    kept = [
        divided[index].kept if source == len(ranked) else float(ranked[source].kept[index])
        for *_, source, index in entries
    ]
    surest = next((place for place, chance in enumerate(kept) if chance >= _SURE), int(np.argmax(kept)) if kept else 0)
    chosen = picked(
        range(len(entries)),
        num_plans,
        (lambda place: place == surest and task.level.has_limits, num_plans),
        (lambda place: kinds[place][0], num_plans),
        (lambda place: kinds[place][:2], num_plans),
        (lambda place: (kinds[place][0], kinds[place][2]), max(1, num_plans // 2)),
        (lambda place: kinds[place], num_plans),
    )
    plans = []
    for place in chosen:
        source, index = entries[place][-2:]
        plans.append(
            divided_plan(task, divided[index]) if source == len(ranked) else build_plan(task, ranked[source], index)
        )
    return tuple(plans), len(entries) - len(plans)


_Kind = tuple[Hashable, str, Hashable, int]  # chips, framework, how many of them, format of the weights


def _alike(found: Ranked, index: int) -> _Kind:
    space, row = found.table.space, int(found.operation.row[index])
    pool = space.option.pool
    weights = int(found.table.cut.weights[row])
    return (pool.cluster, pool.accelerator.name), space.framework.name, int(found.devices[index]), weights


def _kind(found: Divided) -> _Kind:
    sides, table = (found.prefill, found.decode), found.decode.table
    clusters = tuple(side.table.space.option.pool.cluster for side in sides)
    devices = tuple(side.devices for side in sides)
    return clusters, table.space.framework.name, devices, int(table.cut.weights[found.decode.row])
