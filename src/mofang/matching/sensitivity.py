"""What a plan would gain from other hardware or another batch: the same question asked again with one thing changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mofang.domain.hardware import Link, Pool, Precision
from mofang.domain.plan import Plan
from mofang.domain.scenario import Classify, Command, Finetune, Goal, Limits, Pretrain, Resources, Scenario, Serve
from mofang.matching.search import match
from mofang.units import Range, show_bytes

__all__ = ["Sensitivity", "sensitivities"]

# Memories of chips on the market, in GB: what "more memory" means.
_MEMORIES = (16, 24, 32, 40, 48, 64, 80, 96, 128, 141, 192, 256, 288)
_GBIT = 1e9 / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """One change and what it does to tokens/s, as a part of the plan's (0.09: nine per cent more)."""

    what: str
    change: str
    effect: float


def sensitivities(scenario: Scenario, pools: Sequence[Pool], plan: Plan) -> tuple[Sensitivity, ...]:
    """Return what single changes would do to a training plan on one kind of device, the largest gain first.

    For each change the best plan with the same method, framework and precision on as many devices is searched again;
    changes after which nothing fits are left out. Empty for services, commands and mixtures.
    """
    task, pool = scenario.task, _pool_of(plan, pools)
    if plan.estimate is None or plan.parts or pool is None or isinstance(task, Command | Serve):
        return ()
    asked = _like(scenario, task, plan)
    devices = plan.placement.num_devices
    now = _rate(asked, pool, devices)
    if now is None:
        return ()
    rows = []
    for what, change, other, changed, count in _changes(asked, pool, plan):
        rate = _rate(other, changed, count)
        if rate is not None:
            rows.append(Sensitivity(what=what, change=change, effect=rate / now - 1.0))
    return tuple(sorted(rows, key=lambda row: -row.effect))


def _pool_of(plan: Plan, pools: Sequence[Pool]) -> Pool | None:
    place = plan.placement
    fitting = (
        pool
        for pool in pools
        if (pool.cluster, pool.accelerator.name) == (place.cluster, place.accelerator)
        and place.devices_per_node <= pool.devices_per_node
    )
    return next(fitting, None)


def _like(scenario: Scenario, task: Pretrain | Finetune | Classify, plan: Plan) -> Scenario:
    """Return the scenario narrowed to plans like this one, without limits, for the fastest."""
    choice = replace(task.strategy, framework=plan.strategy.framework, precision=plan.strategy.precision)
    narrowed = replace(task, strategy=choice)
    if isinstance(narrowed, Finetune):
        narrowed = replace(narrowed, method=plan.strategy.method)
    resources = Resources(memory_bytes=scenario.resources.memory_bytes)
    return replace(scenario, task=narrowed, resources=resources, goal=Goal.TIME, limits=Limits())


def _rate(scenario: Scenario, pool: Pool, devices: int) -> float | None:
    """Return the tokens/s of the best plan on exactly so many devices; None where there is none."""
    counts = Range(devices, devices)
    plans = match(scenario, [replace(pool, cluster="", counts=counts)], num_plans=1).plans
    if not plans or plans[0].estimate is None:
        return None
    return plans[0].estimate.tokens_per_s * plans[0].estimate.goodput


def _changes(scenario: Scenario, pool: Pool, plan: Plan) -> Iterator[tuple[str, str, Scenario, Pool, int]]:
    """Yield (what, change, scenario, pool, devices) for every change worth a look."""
    devices, chip, task = plan.placement.num_devices, pool.accelerator, scenario.task
    if plan.placement.num_nodes > 1:
        faster = replace(pool, inter=_doubled(pool.inter))
        yield "network", f"{_gbits(faster.inter)} instead of {_gbits(pool.inter)} NICs", scenario, faster, devices
    if plan.placement.devices_per_node > 1:
        link = chip.scaleup_link or ("memory bus" if pool.is_cpu else "PCIe")
        yield "scale-up", f"twice the {link}", scenario, replace(pool, intra=_doubled(pool.intra)), devices
    more = next((size * 10**9 for size in _MEMORIES if size * 10**9 > chip.memory_bytes * 1.08), None)
    if more is not None and not pool.is_cpu:
        roomy = replace(pool, accelerator=replace(chip, memory_bytes=more))
        yield "memory", f"{show_bytes(chip.memory_bytes)} -> {show_bytes(more)}", scenario, roomy, devices
    for added, words in ((plan.placement.devices_per_node, "one more node"), (devices, "twice the devices")):
        yield "devices", words, scenario, pool, devices + added
    if isinstance(task, Pretrain | Finetune | Classify):
        larger = replace(scenario, task=replace(task, global_batch=2 * task.global_batch))
        yield "batch", f"{2 * task.global_batch} instead of {task.global_batch}", larger, pool, devices
        yield from _other_precisions(scenario, task, pool, plan)


def _other_precisions(
    scenario: Scenario, task: Pretrain | Finetune | Classify, pool: Pool, plan: Plan
) -> Iterator[tuple[str, str, Scenario, Pool, int]]:
    now = plan.strategy.precision
    for other in (Precision.BF16, Precision.FP8):
        if other is not now and other in pool.accelerator.peak_flops:
            asked = replace(scenario, task=replace(task, strategy=replace(task.strategy, precision=other)))
            yield "precision", f"{other.value} instead of {now.value}", asked, pool, plan.placement.num_devices


def _doubled(link: Link) -> Link:
    return replace(link, bandwidth=2.0 * link.bandwidth)


def _gbits(link: Link) -> str:
    return f"{link.bandwidth / _GBIT:.0f}G"
