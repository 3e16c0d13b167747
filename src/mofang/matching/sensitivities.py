"""What would change the answer: the best plan's hardware or strategy varied one thing at a time, and searched anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mofang.domain.hardware import Link, Pool, Precision
from mofang.domain.plan import Plan, Sensitivity
from mofang.domain.scenario import Classify, Command, Finetune, Goal, Limits, Pretrain, Resources, Scenario, Serve
from mofang.matching.experience import Experience
from mofang.matching.search import match
from mofang.units import Range, show_bytes, show_rate

__all__ = ["sensitivities"]

_MORE_MEMORY = 1.5
_CHOICES = 8  # plans of which the fastest counts
_NARROW = {Precision.FP8: Precision.BF16, Precision.FP4: Precision.FP8}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """One thing that is different, in words, and the question with it."""

    what: str
    scenario: Scenario
    pools: tuple[Pool, ...]


def sensitivities(
    scenario: Scenario, pools: Sequence[Pool], plan: Plan, known: Experience | None = None
) -> tuple[Sensitivity, ...]:
    """Return how much faster or slower the best plan becomes when one thing is different, the largest gain first.

    Every change is searched anew on as many of the same devices, so that the layout may follow it. Training is compared
    on tokens/s, a service on the output tokens/s that it can give and keep its level. Where nothing is feasible any
    more, ``gain`` is -1.

    Args:
        scenario: what is wanted; its limits are left aside.
        pools: the hardware that the plan was found on.
        plan: the best plan.
        known: what the user's own measurements add to the packaged ones.
    """
    used = _used(pools, plan)
    if not used or isinstance(scenario.task, Command):
        return ()
    question = _question(scenario)
    before = _fastest(question, used, known)
    if before is None:
        return ()
    rows = [
        Sensitivity(what=one.what, gain=-1.0 if after is None else after / before - 1.0)
        for one in _changes(question, used, plan)
        for after in [_fastest(one.scenario, one.pools, known)]
    ]
    return tuple(sorted(rows, key=lambda row: -row.gain))


def _question(scenario: Scenario) -> Scenario:
    """Return the scenario with speed alone as its goal, and as many requests as a service can take."""
    free = replace(
        scenario,
        goal=Goal.TIME,
        limits=Limits(),
        resources=Resources(memory_bytes=scenario.resources.memory_bytes),
    )
    task = scenario.task
    if not isinstance(task, Serve):
        return free
    return replace(free, task=replace(task, traffic=replace(task.traffic, rate=None, concurrency=None)))


def _fastest(scenario: Scenario, pools: Sequence[Pool], known: Experience | None) -> float | None:
    """Return the tokens/s of the fastest of the best plans; None where there is none.

    Which of some about as fast comes first also depends on how sure each is; that must not pass for a gain.
    """
    plans = match(scenario, pools, num_plans=_CHOICES, known=known).plans
    found = [
        one.tokens_per_s
        for plan in plans
        if (one := plan.service.estimate if plan.service else plan.estimate) is not None
    ]
    return max(found, default=None)


def _used(pools: Sequence[Pool], plan: Plan) -> tuple[Pool, ...]:
    """Return the pools of the plan, each with just as many devices as it uses."""
    placements = [part.placement for part in plan.parts] or [plan.placement]
    wanted = {(one.cluster, one.accelerator): one for one in placements}
    found = []
    for pool in pools:
        one = wanted.pop((pool.cluster, pool.accelerator.name), None)
        if one is not None:
            found.append(replace(pool, counts=Range(one.num_devices, one.num_devices)))
    return tuple(found)


def _changes(scenario: Scenario, pools: tuple[Pool, ...], plan: Plan) -> Iterator[_Change]:
    if not any(pool.is_cpu for pool in pools):
        for what, varied in _other_hardware(pools, plan):
            yield _Change(what=what, scenario=scenario, pools=varied)
    for what, task in _other_work(scenario.task, plan):
        yield _Change(what=what, scenario=replace(scenario, task=task), pools=pools)


def _other_hardware(pools: tuple[Pool, ...], plan: Plan) -> Iterator[tuple[str, tuple[Pool, ...]]]:
    """Yield faster links, more memory, more and fewer devices."""
    network, link = max(pool.inter.bandwidth for pool in pools), max(pool.intra.bandwidth for pool in pools)
    if plan.placement.num_nodes > 1 or plan.parts:
        for times, name in ((2.0, "twice the network"), (0.5, "half the network")):
            what = f"{name}: {_bits(network * times)} instead of {_bits(network)} a device between nodes"
            yield what, tuple(replace(pool, inter=_scaled(pool.inter, times)) for pool in pools)
    if max(pool.devices_per_node for pool in pools) > 1 and plan.placement.devices_per_node > 1:
        what = f"twice the link in a node: {show_rate(2 * link)} instead of {show_rate(link)} a device"
        yield what, tuple(replace(pool, intra=_scaled(pool.intra, 2.0)) for pool in pools)
    memory = max(pool.accelerator.memory_bytes for pool in pools)
    what = f"more memory: {show_bytes(_MORE_MEMORY * memory)} instead of {show_bytes(memory)} a device"
    yield what, tuple(_with_memory(pool) for pool in pools)
    if len(pools) == 1:
        yield from _other_counts(pools[0], plan)


def _other_counts(pool: Pool, plan: Plan) -> Iterator[tuple[str, tuple[Pool, ...]]]:
    count = plan.placement.num_devices
    for other in (2 * count, count // 2):
        if other:
            yield (
                f"{other:,} device{'' if other == 1 else 's'} instead of {count:,}",
                (replace(pool, counts=Range(other, other)),),
            )


def _scaled(link: Link, times: float) -> Link:
    return replace(link, bandwidth=link.bandwidth * times)


def _with_memory(pool: Pool) -> Pool:
    chip = pool.accelerator
    return replace(pool, accelerator=replace(chip, memory_bytes=round(_MORE_MEMORY * chip.memory_bytes)))


def _bits(rate: float) -> str:
    return f"{rate * 8 / 1e9:,.4g} Gb/s"


_Task = Pretrain | Finetune | Classify | Serve | Command


def _other_work(task: _Task, plan: Plan) -> Iterator[tuple[str, _Task]]:
    """Yield the wider format where matching chose a narrow one, and twice the batch."""
    if isinstance(task, Serve):
        if task.precision is None and plan.service is not None and plan.service.precision in _NARROW:
            wider = _NARROW[plan.service.precision]
            yield f"weights in {wider.value} instead of {plan.service.precision.value}", replace(task, precision=wider)
        return
    if isinstance(task, Command):
        return
    precision = plan.strategy.precision
    if task.strategy.precision is None and precision in _NARROW:
        strategy = replace(task.strategy, precision=_NARROW[precision])
        yield f"{_NARROW[precision].value} instead of {precision.value}", replace(task, strategy=strategy)
    batch = task.global_batch
    yield f"a global batch of {2 * batch:,} instead of {batch:,}", replace(task, global_batch=2 * batch)
    if isinstance(task, Finetune) and task.lengths is not None and not task.packing:
        yield "documents packed instead of padded", replace(task, packing=True)
