"""What could not be, aggregated into a few rows with their figures and what would make it fit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Precision
from mofang.domain.plan import Plan
from mofang.domain.reasons import Reason, Rejection
from mofang.domain.scenario import Command, Scenario, Serve
from mofang.domain.strategy import Recompute, Sharding
from mofang.matching.candidates import PRECISIONS, RECOMPUTES, SHARDINGS, Candidates, Layouts
from mofang.matching.memory import memory_parts
from mofang.matching.options import Option
from mofang.matching.totals import Evaluated, device_limit, node_limit
from mofang.matching.work import Work
from mofang.units import show_bytes, show_duration

__all__ = [
    "batch_rejection",
    "describe",
    "device_rejection",
    "limit_rejection",
    "memory_rejection",
    "parallelism_rejection",
    "precision_rejection",
    "worse_rejection",
]

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


def describe(option: Option, candidates: Candidates, row: int) -> str:
    """Return a candidate in short: ``8 x H100, fsdp, bf16, micro-batch 4``."""
    parts = [f"{candidates.devices[row]} x {option.name}"]
    if option.pool.is_cpu:
        parts.append(f"{candidates.dp[row]} workers of {candidates.threads[row]} threads")
    if candidates.dp[row] > 1:
        parts.append(SHARDINGS[candidates.sharding[row]].value)
    parts.append(f"micro-batch {candidates.micro_batch[row]}")
    if RECOMPUTES[candidates.recompute[row]] is Recompute.FULL:
        parts.append("recompute")
    return ", ".join(parts)


def parallelism_rejection(task: Work) -> Rejection:
    """The user asked for a cut that the recipe cannot make."""
    asked = {name: getattr(task.strategy, name) for name in ("tp", "pp", "cp")}
    degrees = {name: size for name, size in asked.items() if size not in {None, 1}}
    return Rejection(
        code=Reason.PARALLELISM,
        what=", ".join(f"{name} = {size}" for name, size in degrees.items()),
        need=max(degrees.values()),
        have=1,
        hint="the gpt recipe is data parallel: leave tp, pp and cp out, and use fsdp to cut the state over devices",
        data=degrees,
    )


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
    have = option.counts.maximum
    return Rejection(
        code=Reason.TOO_FEW_DEVICES,
        what=f"{' x '.join(asked) or option.counts} on {option.counts} x {option.name}",
        need=need,
        have=have,
        hint=f"workers x threads must lie in {option.counts} and spread evenly over nodes of "
        f"{option.pool.devices_per_node}",
    )


def batch_rejection(task: Work, option: Option, found: Layouts) -> Rejection:
    """The global batch does not divide over these numbers of workers."""
    workers = int(found.workers.min())
    micro = task.strategy.micro_batch
    fixed = f" x micro-batch {micro}" if micro else ""
    divisors = [size for size in range(1, task.global_batch + 1) if task.global_batch % size == 0]
    near = max((size for size in divisors if size <= workers), default=1)
    each = workers * (micro or 1)
    return Rejection(
        code=Reason.BATCH,
        what=f"{workers} workers{fixed} or more, {option.name}",
        need=each * -(-task.global_batch // each),
        have=task.global_batch,
        hint=f"use {near} workers, or a global batch that is a multiple of {each}",
        candidates=len(found),
    )


def precision_rejection(task: Work, option: Option, candidates: int) -> Rejection:
    """The devices cannot compute in this precision."""
    asked = task.strategy.precision
    known = ", ".join(precision.value for precision in option.pool.accelerator.peak_flops) or "unknown"
    return Rejection(
        code=Reason.PRECISION,
        what=f"{asked.value if asked else 'bf16 or fp32'}, {option.name}",
        hint="use precision fp32 or bf16" if option.pool.is_cpu else f"the chip computes in: {known}",
        candidates=candidates,
    )


def memory_rejection(found: Evaluated, host: Floats, fits: Mask) -> Rejection:
    """The state and activations are larger than the memory; the row shown is the one that comes closest."""
    candidates, estimates = found.candidates, found.estimates
    on_device = device_limit(found.pool)
    over_device = estimates.memory_bytes > on_device if on_device else np.zeros(len(candidates), dtype=np.bool_)
    bound_by_device = bool(over_device.any())
    rejected = np.flatnonzero(over_device if bound_by_device else ~fits)
    need = estimates.memory_bytes if bound_by_device else host
    limit = on_device if bound_by_device else node_limit(found.pool)
    row = int(rejected[np.argmin(need[rejected])])
    return Rejection(
        code=Reason.MEMORY,
        what=describe(found.option, candidates, row),
        need=float(need[row]),
        have=float(limit),
        hint=_memory_hint(found, fits, limit),
        candidates=int((~fits).sum()),
        data={part: float(size[row]) for part, size in estimates.memory.items()},
    )


def _memory_hint(found: Evaluated, fits: Mask, limit: float) -> str:
    """Say what would fit: the smallest candidate that does, else FSDP over as many devices as it takes."""
    option, candidates = found.option, found.candidates
    rows = np.flatnonzero(fits)
    if len(rows):
        best = int(rows[np.argmin(candidates.devices[rows])])
        return f"fits with {describe(option, candidates, best)}"
    if option.pool.is_cpu:
        return "use a smaller model, micro-batch or sequence, fewer workers, or a machine with more memory"
    count = _devices_needed(found.task, option, limit)
    if count is None:
        return (
            f"does not fit on {option.pool.accelerator.name} with data parallelism alone: use a device with more memory"
        )
    return f"would fit with fsdp on {count} devices, recompute, micro-batch 1"


def _devices_needed(task: Work, option: Option, limit: float) -> int | None:
    """Return the smallest power of two of devices on which the most frugal strategy fits."""
    counts = 2 ** np.arange(1, 15)
    ones = np.ones_like(counts)
    frugal = Candidates(
        nodes=ones,
        devices=counts,
        threads=ones,
        dp=counts,
        tp=ones,
        pp=ones,
        cp=ones,
        ep=ones,
        vpp=ones,
        micro_batch=ones,
        accumulation=np.maximum(1, task.global_batch // counts),
        precision=ones * PRECISIONS.index(Precision.BF16),
        recompute=ones * RECOMPUTES.index(Recompute.FULL),
        sharding=ones * SHARDINGS.index(Sharding.FSDP),
        compile=ones * 0,
        method=ones * 0,
        offload=ones * 0,
    )
    need = sum(memory_parts(task, option.pool, frugal).values(), np.zeros(len(counts)))
    fitting = np.flatnonzero(need <= limit)
    return int(counts[fitting[0]]) if len(fitting) else None


def limit_rejection(reason: Reason, found: Evaluated, values: Floats, allowed: float, over: Mask) -> Rejection:
    """The run would end after its deadline, or cost more than its budget; the row shown comes closest."""
    rows = np.flatnonzero(over)
    row = int(rows[np.argmin(values[rows])])
    if reason is Reason.DEADLINE:
        fastest = show_duration(float(values[row]))
        hint = f"the fastest of these takes {fastest}: fewer steps, more devices or a later deadline"
    else:
        hint = "fewer steps, cheaper devices or a larger budget"
    return Rejection(
        code=reason,
        what=describe(found.option, found.candidates, row),
        need=float(values[row]),
        have=allowed,
        hint=hint,
        candidates=len(rows),
    )


def worse_rejection(last: Plan, count: int) -> Rejection:
    """What is feasible and not shown."""
    estimate = last.estimate
    step = (
        f"step time of {show_duration(estimate.step_time_s)} and {show_bytes(estimate.memory_bytes)}"
        if estimate
        else ""
    )
    return Rejection(
        code=Reason.WORSE,
        what=f"{count} more feasible candidates",
        hint=f"ranked after the last plan shown ({step})",
        candidates=count,
    )
