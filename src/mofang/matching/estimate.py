"""What every candidate of a pool is predicted to do: step time by part, memory by part, throughput and MFU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool, Precision
from mofang.domain.rates import Collective, Operator, Phase
from mofang.domain.strategy import Recompute, Sharding
from mofang.matching.candidates import PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.coefficients import coefficients
from mofang.matching.communication import Ranks, Transfer, collective_seconds
from mofang.matching.memory import element_bytes, memory_parts
from mofang.matching.speed import Speed
from mofang.matching.work import Work
from mofang.matching.workers import peak_flops, speed_of
from mofang.matching.workload import micro_batch_uses, update_uses

__all__ = ["Estimates", "estimate"]

Floats = NDArray[np.float64]

_PART = {Operator.LINEAR: "compute", Operator.ATTENTION: "attention"}
PARTS = ("compute", "attention", "memory", "optimizer", "communication", "overhead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """One row a candidate: seconds, bytes, FLOP/s. ``validation_s`` is one forward pass of one micro-batch."""

    time: Mapping[str, Floats]
    memory: Mapping[str, Floats]
    peak_flops: Floats
    validation_s: Floats

    @property
    def step_time(self) -> Floats:
        """Seconds of one optimiser step."""
        return sum(self.time.values(), np.zeros_like(self.peak_flops))

    @property
    def memory_bytes(self) -> Floats:
        """Bytes on the fullest device, or in one worker where the devices are cores."""
        return sum(self.memory.values(), np.zeros_like(self.peak_flops))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passes:
    """Seconds of one micro-batch by part, forward and backward (activations computed again included)."""

    forward: Mapping[str, Floats]
    backward: Mapping[str, Floats]


def estimate(task: Work, pool: Pool, candidates: Candidates) -> Estimates:
    """Return what each candidate is predicted to do on the pool."""
    size = len(candidates)
    forward = {part: np.zeros(size) for part in PARTS}
    backward = {part: np.zeros(size) for part in PARTS}
    update = np.zeros(size)
    accumulate = np.zeros(size)
    peak = np.zeros(size)
    for rows, speed, precision in _alike(pool, candidates):
        group = candidates.where(rows)
        passes = _passes(task, speed, group, precision)
        for part, seconds in passes.forward.items():
            forward[part][rows] = seconds
        for part, seconds in passes.backward.items():
            backward[part][rows] = seconds
        update[rows] = _update(task, speed, group)
        accumulate[rows] = _accumulate(task, speed, group)
        peak[rows] = peak_flops(pool, precision) * group.devices
    times = candidates.accumulation.astype(np.float64)
    both = {part: times * (forward[part] + backward[part]) for part in PARTS}
    both["memory"] = both["memory"] + times * accumulate
    both["optimizer"] = update
    both["overhead"] = _overhead(task, pool, candidates)
    both["communication"] = _communication(task, pool, candidates, _sum(forward), _sum(backward))
    return Estimates(
        time=both, memory=memory_parts(task, pool, candidates), peak_flops=peak, validation_s=_sum(forward)
    )


def _sum(parts: Mapping[str, Floats]) -> Floats:
    return sum(parts.values(), np.zeros(len(next(iter(parts.values())))))


def _alike(pool: Pool, candidates: Candidates) -> Iterator[tuple[NDArray[np.intp], Speed, Precision]]:
    """Yield the rows of candidates whose workers are equally fast, with their speed."""
    on_node = candidates.workers // candidates.nodes if pool.is_cpu else np.ones_like(candidates.nodes)
    keys = np.stack([candidates.precision, on_node, candidates.threads, candidates.compile], axis=1)
    found, inverse = np.unique(keys, axis=0, return_inverse=True)
    for index, (precision, workers, threads, compiled) in enumerate(found):
        kind = PRECISIONS[precision]
        speed = speed_of(pool, kind, workers=int(workers), threads=int(threads), fused=bool(compiled))
        yield np.flatnonzero(inverse.ravel() == index), speed, kind


def _passes(task: Work, speed: Speed, group: Candidates, precision: Precision) -> _Passes:
    """Return one micro-batch's seconds; operators are timed once for each distinct micro-batch."""
    sizes, place = np.unique(group.micro_batch, return_inverse=True)
    forward = {part: np.zeros(len(sizes)) for part in PARTS}
    backward = {part: np.zeros(len(sizes)) for part in PARTS}
    again = {part: np.zeros(len(sizes)) for part in PARTS}
    for use in micro_batch_uses(task.model, task.sequence):
        part = _PART.get(use.operator, "memory")
        shapes = use.shapes(sizes.astype(np.float64))
        there = use.times * speed.seconds(use.operator, Phase.FORWARD, shapes)
        forward[part] += there
        backward[part] += use.times * speed.seconds(use.operator, Phase.BACKWARD, shapes)
        again[part] += there * use.in_block
    if precision.bytes < 4:
        _add_casts(task, speed, forward, backward, again)
    whole = group.recompute == RECOMPUTES.index(Recompute.FULL)
    return _Passes(
        forward={part: seconds[place] for part, seconds in forward.items()},
        backward={part: backward[part][place] + np.where(whole, again[part][place], 0.0) for part in PARTS},
    )


def _add_casts(
    task: Work,
    speed: Speed,
    forward: dict[str, Floats],
    backward: dict[str, Floats],
    again: dict[str, Floats],
) -> None:
    """Add, once a micro-batch, turning fp32 weights into the products' precision, and their gradients back."""
    shape = np.array([[float(task.model.matmul_params), 1.0, 1.0]])
    there = speed.seconds(Operator.CAST, Phase.FORWARD, shape)
    forward["memory"] += there
    backward["memory"] += speed.seconds(Operator.CAST, Phase.BACKWARD, shape)
    again["memory"] += there


def _overhead(task: Work, pool: Pool, candidates: Candidates) -> Floats:
    """Return the seconds of launching what does no work; an accelerator works on while the host launches."""
    if not pool.is_cpu:
        return np.zeros(len(candidates))
    launch = coefficients().dispatch_s["eager"]
    if pool.rates is not None and pool.rates.dispatch_s > 0:
        launch = pool.rates.dispatch_s + pool.rates.backward_dispatch_s
    count = coefficients().small_operators
    whole = candidates.recompute == RECOMPUTES.index(Recompute.FULL)
    block = count["block"] + np.where(whole, count["recomputed_block"], 0)
    each = count["model"] + task.model.layers * block
    seconds: Floats = launch * (candidates.accumulation * each + count["step"])
    return seconds


def _held(task: Work, group: Candidates) -> Floats:
    """Return how many parameters a rank updates."""
    sharded = group.sharding == SHARDINGS.index(Sharding.FSDP)
    return task.model.params / np.where(sharded, group.dp, 1).astype(np.float64)


def _update(task: Work, speed: Speed, group: Candidates) -> Floats:
    held, place = np.unique(_held(task, group), return_inverse=True)
    seconds = [speed.seconds(operator, Phase.UPDATE, shapes) for operator, shapes in update_uses(held)]
    total: Floats = np.sum(seconds, axis=0)[place]
    return total


def _accumulate(task: Work, speed: Speed, group: Candidates) -> Floats:
    """Return the seconds of adding one micro-batch's gradients to those before it: read two, write one."""
    shape = np.array([[float(task.model.params), 1.0, 1.0]])
    return np.full(len(group), speed.seconds(Operator.ADD, Phase.BACKWARD, shape)[0])


def _communication(task: Work, pool: Pool, candidates: Candidates, forward: Floats, backward: Floats) -> Floats:
    """Return the seconds of communication that computing does not hide."""
    part = coefficients().overlap["cpu" if pool.is_cpu else "accelerator"]
    ranks = Ranks(count=candidates.dp.astype(np.float64), nodes=candidates.nodes.astype(np.float64))
    hidden = _Hidden(forward=part * forward, backward=part * backward)

    def seconds(operation: Collective, size: Floats, calls: float) -> Floats:
        return collective_seconds(
            pool, Transfer(operation=operation, size=size, calls=np.full(len(candidates), calls)), ranks
        )

    size = np.full(len(candidates), 4.0 * task.model.params)
    reduced = seconds(Collective.ALL_REDUCE, size, math.ceil(size[0] / _BUCKET_BYTES))
    return np.where(
        candidates.sharding == SHARDINGS.index(Sharding.FSDP),
        _fully_sharded(task, candidates, hidden, seconds),
        np.maximum(0.0, reduced - hidden.backward),
    )


_BUCKET_BYTES = 25 * 2**20  # gradients are reduced in pieces of this size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hidden:
    """Seconds of communication that each pass of one micro-batch can hide."""

    forward: Floats
    backward: Floats


def _fully_sharded(
    task: Work,
    candidates: Candidates,
    hidden: _Hidden,
    seconds: Callable[[Collective, Floats, float], Floats],
) -> Floats:
    """Return the exposed seconds of FSDP: weights gathered twice a micro-batch, gradients scattered once a step.

    The tables are gathered once a micro-batch; blocks again in the backward pass (ZeRO-3, arXiv:1910.02054).
    """
    element = element_bytes(candidates)
    params, tables, layers = float(task.model.params), float(task.model.embedding_params), task.model.layers
    there = seconds(Collective.ALL_GATHER, element * params, layers + 1)
    back = seconds(Collective.ALL_GATHER, element * (params - tables), layers)
    scatter = seconds(Collective.REDUCE_SCATTER, np.full(len(candidates), 4.0 * params), layers + 1)
    times = candidates.accumulation.astype(np.float64)
    exposed = times * np.maximum(0.0, there - hidden.forward)
    exposed = exposed + (times - 1.0) * np.maximum(0.0, back - hidden.backward)
    total: Floats = exposed + np.maximum(0.0, back + scatter - hidden.backward)
    return total
