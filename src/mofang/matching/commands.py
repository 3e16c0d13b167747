"""Plans for the user's own program: its workers placed on devices, its estimate unknown."""

from __future__ import annotations

from collections.abc import Sequence

from mofang.domain.hardware import Precision
from mofang.domain.plan import MatchResult, Placement, Plan
from mofang.domain.reasons import Reason, Rejection, precedence
from mofang.domain.scenario import Command, Scenario
from mofang.domain.strategy import Parallelism, Sharding, Strategy
from mofang.matching.options import Option
from mofang.matching.totals import node_limit

__all__ = ["match_command"]

FRAMEWORK = "command"


def match_command(
    scenario: Scenario, task: Command, options: Sequence[Option], rejections: list[Rejection], *, num_plans: int
) -> MatchResult:
    """Return the placements of the program's workers: ``cores_per_worker`` cores each, or a device each.

    Cores come first, fewer nodes before more, unless the user asked for other devices.
    """
    asked = bool(scenario.resources.any_of)
    chosen = [option for option in options if asked or option.pool.is_cpu or not _any_cores(options)]
    plans: list[tuple[int, Plan]] = []
    for option in chosen:
        found, rejection = _place(scenario, task, option)
        if rejection is not None:
            rejections.append(rejection)
        plans += [(option.preference if scenario.resources.ordered else 0, plan) for plan in found]
    plans.sort(key=lambda row: (row[0], row[1].placement.num_nodes))
    ordered = sorted(rejections, key=lambda rejection: precedence(rejection.code))
    return MatchResult(
        plans=tuple(plan for _, plan in plans[:num_plans]), rejections=tuple(ordered), candidates=len(plans)
    )


def _any_cores(options: Sequence[Option]) -> bool:
    return any(option.pool.is_cpu for option in options)


def _place(scenario: Scenario, task: Command, option: Option) -> tuple[list[Plan], Rejection | None]:
    pool = option.pool
    each = task.cores_per_worker if pool.is_cpu else 1
    need = task.workers * each
    if need not in option.counts:
        return [], _rejected(Reason.TOO_FEW_DEVICES, task, option, need, option.counts.maximum)
    if (scenario.resources.memory_bytes or 0) > node_limit(pool):
        memory = float(scenario.resources.memory_bytes or 0)
        return [], _rejected(Reason.MEMORY, task, option, memory, node_limit(pool))
    on_node = pool.devices_per_node // each
    wanted = scenario.resources.nodes
    nodes = [
        count
        for count in range(1, task.workers + 1)
        if task.workers % count == 0
        and task.workers // count <= on_node
        and wanted in {None, count}
        and (option.most_nodes is None or count <= option.most_nodes)
    ]
    if not nodes:
        return [], _rejected(Reason.TOO_FEW_DEVICES, task, option, need, pool.devices_per_node)
    return [_plan(scenario, task, option, each, count) for count in nodes[:2]], None


def _rejected(code: Reason, task: Command, option: Option, need: float, have: float | None) -> Rejection:
    cores = f" x {task.cores_per_worker} cores" if option.pool.is_cpu else ""
    return Rejection(
        code=code,
        what=f"{task.workers} workers{cores}, {option.name}",
        need=need,
        have=have,
        hint="ask for fewer workers, fewer cores a worker, or other devices",
    )


def _plan(scenario: Scenario, task: Command, option: Option, each: int, nodes: int) -> Plan:
    return Plan(
        strategy=Strategy(
            framework=FRAMEWORK,
            parallelism=Parallelism(dp=task.workers),
            sharding=Sharding.DDP if task.workers > 1 else Sharding.NONE,
            precision=Precision.FP32,
            threads=each,
        ),
        placement=Placement(
            cluster=option.pool.cluster,
            accelerator=option.pool.accelerator.name,
            num_devices=task.workers * each,
            num_nodes=nodes,
            node_memory_bytes=scenario.resources.memory_bytes or 0,
        ),
        steps=None,
    )
