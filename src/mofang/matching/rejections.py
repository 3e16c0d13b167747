"""What could not be, aggregated into a few rows with their figures and what would make it fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mofang.domain.plan import Plan
from mofang.domain.reasons import Reason, Rejection, precedence
from mofang.domain.scenario import Command, Scenario, Serve
from mofang.domain.strategy import Recompute
from mofang.matching.candidates import METHODS, OFFLOADS, PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.cuts import divisors
from mofang.matching.options import Option
from mofang.matching.tally import Closest
from mofang.matching.work import Work
from mofang.units import show_bytes, show_duration

__all__ = [
    "batch_rejection",
    "describe",
    "device_rejection",
    "limit_rejection",
    "merge_rejections",
    "precision_rejection",
    "worse_rejection",
]


def describe(option: Option, candidates: Candidates, row: int = 0) -> str:
    """Return a candidate in short: ``8 x H100, tp 2, fsdp, bf16, micro-batch 4``."""
    parts = [f"{candidates.devices[row]} x {option.name}"]
    if option.pool.is_cpu:
        parts.append(f"{candidates.dp[row]} workers of {candidates.threads[row]} threads")
    parts += [
        f"{name} {size}" for name in ("tp", "pp", "vpp", "cp", "ep") if (size := getattr(candidates, name)[row]) > 1
    ]
    if candidates.dp[row] * candidates.cp[row] > 1:
        parts.append(SHARDINGS[candidates.sharding[row]].value)
    if METHODS[candidates.method[row]].value != "full":
        parts.append(METHODS[candidates.method[row]].value)
    parts += [PRECISIONS[candidates.precision[row]].value, f"micro-batch {candidates.micro_batch[row]}"]
    recompute = RECOMPUTES[candidates.recompute[row]]
    if recompute is not Recompute.NONE:
        parts.append("recompute" if recompute is Recompute.FULL else f"{recompute.value} recompute")
    if candidates.offload[row]:
        parts.append(f"offload {OFFLOADS[candidates.offload[row]].value}")
    return ", ".join(parts)


def device_rejection(option: Option, scenario: Scenario) -> Rejection:
    """No layout of the pool has the workers, threads or nodes asked for."""
    task = scenario.task
    choice = None if isinstance(task, Command | Serve) else task.strategy
    workers = (choice.workers or choice.dp) if choice else None
    threads = choice.threads if choice else None
    asked = [
        f"{value} {name}"
        for name, value in (("workers", workers), ("threads a worker", threads), ("nodes", scenario.resources.nodes))
        if value is not None
    ]
    need = (workers or 1) * (threads or 1) if workers or threads else option.counts.minimum
    return Rejection(
        code=Reason.TOO_FEW_DEVICES,
        what=f"{' x '.join(asked) or option.counts} on {option.counts} x {option.name}",
        need=need,
        have=option.counts.maximum,
        hint=f"workers x threads must lie in {option.counts} and spread evenly over nodes of "
        f"{option.pool.devices_per_node}",
    )


def batch_rejection(work: Work, option: Option, workers: NDArray[np.int64]) -> Rejection:
    """The global batch does not divide over these numbers of workers, however the model is cut."""
    least = int(workers.min())
    micro = work.strategy.micro_batch
    fixed = f" x micro-batch {micro}" if micro else ""
    near = max((size for size in divisors(work.global_batch) if size <= least), default=1)
    each = least * (micro or 1)
    return Rejection(
        code=Reason.BATCH,
        what=f"{least} workers{fixed}{' or more' if len(workers) > 1 else ''}, {option.name}",
        need=each * -(-work.global_batch // each),
        have=work.global_batch,
        hint=f"use {near} workers, or a global batch that is a multiple of {each}",
        candidates=len(workers),
    )


def precision_rejection(work: Work, option: Option, candidates: int) -> Rejection:
    """The devices, or the frameworks on them, cannot compute in this precision."""
    asked = work.strategy.precision
    known = ", ".join(precision.value for precision in option.pool.accelerator.peak_flops) or "unknown"
    return Rejection(
        code=Reason.PRECISION,
        what=f"{asked.value if asked else 'bf16 or fp32'}, {option.name}",
        hint="use precision fp32 or bf16" if option.pool.is_cpu else f"the chip computes in: {known}",
        candidates=candidates,
    )


def limit_rejection(scenario: Scenario, reason: Reason, closest: Closest) -> Rejection:
    """The run would end after its deadline, or cost more than its budget; the row shown comes closest."""
    unit = closest.unit
    if reason is Reason.DEADLINE:
        allowed = scenario.limits.deadline_s
        hint = (
            f"the fastest of these takes {show_duration(closest.value)}: fewer steps, more devices or a later deadline"
        )
    else:
        allowed = scenario.limits.budget
        hint = "fewer steps, cheaper devices or a larger budget"
    what = "" if unit is None else describe(unit.option, unit.space.pick(np.array([closest.number])))
    return Rejection(code=reason, what=what, need=closest.value, have=allowed, hint=hint, candidates=closest.count)


def merge_rejections(rows: Sequence[Rejection]) -> list[Rejection]:
    """Return rows in order of precedence; those that say the same of several kinds of devices become one."""
    groups: dict[tuple[object, ...], list[Rejection]] = {}
    for row in rows:
        groups.setdefault((row.code, row.need, row.have, row.hint), []).append(row)
    merged = [
        replace(
            group[0],
            what=group[0].what if len(group) == 1 else f"{group[0].what}, and {len(group) - 1} others alike",
            candidates=sum(row.candidates for row in group),
        )
        for group in groups.values()
    ]
    return sorted(merged, key=lambda row: precedence(row.code))


def worse_rejection(last: Plan, count: int) -> Rejection:
    """What is not shown: feasible and worse, or left out because it cannot be better."""
    estimate = last.estimate
    step = (
        f" (step time of {show_duration(estimate.step_time_s)} and {show_bytes(estimate.memory_bytes)})"
        if estimate
        else ""
    )
    return Rejection(
        code=Reason.WORSE,
        what=f"{count} more candidates",
        hint=f"ranked after the last plan shown{step}",
        candidates=count,
    )
