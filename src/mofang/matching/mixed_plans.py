"""A mixture of two kinds of chips as a plan with its parts and estimate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mofang.domain.estimate import Estimate, Evidence, Interval
from mofang.domain.plan import Part, Placement, Plan, Role
from mofang.domain.scenario import Goal, Scenario
from mofang.domain.strategy import Parallelism
from mofang.matching.goodput import losses
from mofang.matching.mixtures import Mixture
from mofang.matching.plans import estimate_of, known_of, model_flops, placement_of, strategy_of
from mofang.matching.sides import Half, step_of
from mofang.matching.totals import device_power
from mofang.matching.work import Work

__all__ = ["goal_of", "mixed_plan"]


def goal_of(goal: Goal, plan: Plan) -> float:
    """Return what the goal minimises; infinite where it is unknown."""
    if plan.estimate is None:
        return float("inf")
    found = {
        Goal.TIME: plan.estimate.total_time_s / max(1, plan.steps or 1),
        Goal.COST: plan.estimate.cost,
        Goal.ENERGY: plan.estimate.energy_j,
    }[goal]
    return float("inf") if found is None else found


def mixed_plan(scenario: Scenario, work: Work, mixture: Mixture) -> Plan:
    """Return the plan of a mixture; its first part has the larger share, and lends it strategy and placement."""
    halves = sorted(mixture.halves, key=lambda half: -half.share)
    strategies = [strategy_of(half.found.candidates, half.row, half.side.framework) for half in halves]
    placements = [placement_of(scenario, half.found, half.row) for half in halves]
    parts = tuple(
        Part(
            role=mixture.role,
            placement=placement,
            parallelism=_own(strategy.parallelism, placement, mixture.role),
            share=half.share,
            framework=half.side.framework.name,
        )
        for half, strategy, placement in zip(halves, strategies, placements, strict=True)
    )
    steps = work.steps or max(1, int((work.duration_s or 0.0) / mixture.step))
    return Plan(
        strategy=strategies[0],
        placement=placements[0],
        steps=steps,
        estimate=_estimate(scenario, work, mixture, halves, steps),
        parts=parts,
    )


def _own(parallelism: Parallelism, placement: Placement, role: Role) -> Parallelism:
    """Return the degrees of one part: of a pipeline over both, its own stages."""
    if role is not Role.STAGES:
        return parallelism
    return replace(parallelism, pp=placement.num_devices // (parallelism.dp * parallelism.tp), vpp=1)


def _estimate(scenario: Scenario, work: Work, mixture: Mixture, halves: list[Half], steps: int) -> Estimate:
    found = [_alone(scenario, half) for half in halves]
    fullest = max(found, key=lambda one: one.memory_bytes)
    first, step, run = found[0], mixture.step, mixture.step * steps
    devices = [half.side.devices for half in halves]
    lost = losses(
        work,
        halves[0].side.pool,
        devices=np.array([sum(devices)]),
        nodes=np.array([sum(half.side.nodes for half in halves)]),
        step=np.array([step]),
        run=np.array([run]),
    )
    seconds = run + float(lost.seconds[0])
    peak = sum(one.peak_flops for one in found)
    tokens = work.global_batch * work.sequence * work.useful
    paces = sorted(step_of(half) for half in halves)
    return Estimate(
        step_time_s=step,
        step_time_90=Interval(
            low=step * min(one.step_time_90.low / one.step_time_s for one in found),
            high=step * max(one.step_time_90.high / one.step_time_s for one in found),
        ),
        tokens_per_s=tokens / step,
        mfu=model_flops(work, halves[0].found.unit.method) * tokens / step / peak,
        memory_bytes=fullest.memory_bytes,
        memory_limit_bytes=fullest.memory_limit_bytes,
        tight=any(one.tight for one in found),
        unmeasured=tuple(dict.fromkeys(text for one in found for text in one.unmeasured)),
        peak_flops=peak,
        total_time_s=seconds,
        time={**first.time, "other part": step - first.step_time_s},
        memory=fullest.memory,
        energy_j=_energy(halves, devices, seconds, steps),
        cost=_cost(halves, devices, seconds),
        goodput=run / seconds,
        evidence=(
            *first.evidence,
            Evidence(
                what=f"mixture: the {_unit(mixture.role)} are shared out so that both kinds of chips end together "
                f"({paces[0]:.3g} s and {paces[1]:.3g} s a step); frameworks that run on both at once are few, and no "
                "launcher starts them",
                source="HetPipe, arXiv:2005.14038",
            ),
        ),
    )


def _alone(scenario: Scenario, half: Half) -> Estimate:
    """Return the estimate of one half by itself."""
    one = half.found.where(slice(half.row, half.row + 1))
    return estimate_of(scenario, one, 0, known_of(one))


def _unit(role: Role) -> str:
    return "layers" if role is Role.STAGES else "sequences of a batch"


def _cost(halves: list[Half], devices: list[int], seconds: float) -> float | None:
    prices = [half.side.pool.price_per_device_hour for half in halves]
    known = [price * count for price, count in zip(prices, devices, strict=True) if price is not None]
    return sum(known) * seconds / 3600.0 if len(known) == len(halves) else None


def _energy(halves: list[Half], devices: list[int], seconds: float, steps: int) -> float | None:
    total = 0.0
    for half, count in zip(halves, devices, strict=True):
        power = device_power(half.side.pool)
        if power is None:
            return None
        idle, rated = power
        total += count * (idle * seconds + (rated - idle) * half.found.busy(half.row) * steps)
    return total
