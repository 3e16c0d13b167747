"""What one micro-batch costs a rank, all layers, by part: operators, what is computed again, exposed collectives.

Everything here depends only on how a micro-batch is cut, not on how many there are or how layers are staged: it is
computed once for every distinct combination of those columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool, Precision
from mofang.domain.rates import Operator, Phase
from mofang.domain.strategy import Method, Recompute
from mofang.matching.candidates import METHODS, PRECISIONS, RECOMPUTES
from mofang.matching.codes import Combinations, combinations
from mofang.matching.coefficients import coefficients
from mofang.matching.exposed import (
    HALVES,
    Exposed,
    context_seconds,
    expert_seconds,
    setting_of,
    stage_seconds,
    tensor_seconds,
)
from mofang.matching.params import params_of
from mofang.matching.passes import OPERATOR_PARTS, Passes, concatenated, gathered, passes, stack
from mofang.matching.profiles import Profile
from mofang.matching.speed import Speed
from mofang.matching.work import Work
from mofang.matching.workers import speed_of
from mofang.matching.workload import Cut, micro_batch_uses

__all__ = ["BUSY_PARTS", "MICRO_PARTS", "launch_seconds", "micro_batches"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SETTING = ("precision", "method", "compile", "threads", "on_node")
_SHAPE = (*_SETTING, "tp", "cp", "ep", "micro_batch")


# The parts of a micro-batch's time that `micro_batches` returns, and those of them in which a chip draws its power.
MICRO_PARTS = (
    *OPERATOR_PARTS,
    "recompute",
    "tensor-parallel",
    "context-parallel",
    "expert-parallel",
    "overhead",
)
BUSY_PARTS = (*OPERATOR_PARTS, "recompute")


def micro_batches(work: Work, pool: Pool, profile: Profile, columns: Mapping[str, Ints]) -> Mapping[str, Floats]:
    """Return the seconds of one micro-batch through all layers on one rank, for every row of ``columns``.

    Args:
        work: what is trained.
        pool: where.
        profile: how the framework spends time.
        columns: those of ``Candidates`` that operators and collectives of a micro-batch depend on, and ``on_node``
            (the workers on each node) and ``spans`` (whether the job has more than one node).

    Returns:
        A column for each of ``MICRO_PARTS``, their sums ``total`` and ``busy`` (the parts that keep the chip busy);
        ``forward`` and ``backward``, the passes that other communication can hide behind; ``head`` and ``table``, what
        the last and the first pipeline stage have beyond their layers; ``layer``, the mean of one layer; ``send``,
        handing the activations to the next stage.
    """
    names = [name for name in _SHAPE if pool.is_cpu or name not in {"on_node", "threads"}]
    shapes = combinations({name: columns[name] for name in names})
    found, extra = _operators(work, pool, profile, shapes)
    found, extra = (
        gathered(found, shapes.place),
        Exposed(forward=extra.forward[shapes.place], backward=extra.backward[shapes.place]),
    )
    at = setting_of(work, pool, profile, columns)
    tensor = tensor_seconds(at)
    context = context_seconds(at, found.forward["attention"], found.backward["attention"])
    experts = expert_seconds(at)
    parts = {part: found.forward[part] + found.backward[part] + found.outer[part] for part in OPERATOR_PARTS}
    parts["memory"] = parts["memory"] + extra.both
    exposed = tensor.forward + context.forward + experts.forward
    parts["recompute"] = _again(profile, columns["recompute"], found, extra.forward + exposed)
    parts["tensor-parallel"] = tensor.both
    parts["context-parallel"] = context.both
    parts["expert-parallel"] = experts.both
    forward = stack(found.forward) + extra.forward + exposed + found.outer_forward
    if pool.is_cpu:
        parts["overhead"] = _launches(work, pool, columns["recompute"])
    else:
        parts["overhead"] = _waits(work, profile, columns["recompute"], forward, stack(parts) - forward)
    total = stack(parts)
    return {
        **parts,
        "total": total,
        "busy": sum((parts[part] for part in BUSY_PARTS), np.zeros_like(total)),
        "forward": forward,
        "backward": total - forward,
        "head": found.head,
        "table": found.table,
        "layer": (total - found.head - found.table) / work.model.layers,
        "send": stage_seconds(at),
    }


def _operators(work: Work, pool: Pool, profile: Profile, shapes: Combinations) -> tuple[Passes, Exposed]:
    """Return the operators' seconds of every distinct shape, and those of moving weights and their gradients."""
    pieces: list[tuple[NDArray[np.intp], Passes, Exposed]] = []
    for rows, setting in _alike(shapes):
        column = {name: shapes.columns[name][rows].astype(np.float64) for name in ("tp", "cp", "ep", "micro_batch")}
        cut = Cut(**column, sequence_parallel=profile.sequence_parallel, imbalance=profile.imbalance)
        method, precision = METHODS[setting["method"]], PRECISIONS[setting["precision"]]
        block, outer = _speeds(work, pool, profile, setting)
        uses = micro_batch_uses(work, cut, adapters=method is not Method.FULL)
        found = passes(uses, block, outer, len(rows))
        pieces.append((rows, found, _weights(work, profile, method=method, precision=precision, speed=outer, cut=cut)))
    order = np.argsort(np.concatenate([rows for rows, _, _ in pieces]))
    extra = Exposed(
        forward=np.concatenate([piece.forward for _, _, piece in pieces])[order],
        backward=np.concatenate([piece.backward for _, _, piece in pieces])[order],
    )
    return gathered(concatenated([piece for _, piece, _ in pieces]), order), extra


def _alike(shapes: Combinations) -> Iterator[tuple[NDArray[np.intp], Mapping[str, int]]]:
    """Yield the shapes whose operators run at one speed, and that speed's setting."""
    groups = combinations({name: shapes.columns[name] for name in _SETTING if name in shapes.columns})
    for index in range(len(groups)):
        yield (
            np.flatnonzero(groups.place == index),
            {name: int(column[index]) for name, column in groups.columns.items()},
        )


def _speeds(work: Work, pool: Pool, profile: Profile, setting: Mapping[str, int]) -> tuple[Speed, Speed]:
    """Return the speed of the blocks and of what is around them: only blocks run in 8 or 4 bits (arXiv:2209.05433)."""
    precision = PRECISIONS[setting["precision"]]
    block, outer = (
        speed_of(
            pool,
            kind,
            workers=setting.get("on_node", 1),
            threads=setting.get("threads", 1),
            fused=profile.fuses(compiled=bool(setting["compile"])),
            fused_attention=work.fused_attention,
            slower_attention=profile.attention.get(pool.accelerator.architecture, 1.0),
        )
        for kind in (precision, Precision.BF16 if precision in HALVES else precision)
    )
    return block, outer


def _weights(work: Work, profile: Profile, *, method: Method, precision: Precision, speed: Speed, cut: Cut) -> Exposed:
    """Return, once a micro-batch: casting or unpacking weights, and adding gradients to those before them."""
    params = params_of(work, method)
    dense, experts = params.blocks / cut.tp, params.experts / (cut.ep * cut.expert_tp)
    held = _column(dense + experts + work.model.vocab * work.model.hidden / cut.tp)
    trained = params.trained_dense / cut.tp + params.trained_experts / (cut.ep * cut.expert_tp)
    forward, backward = np.zeros_like(cut.tp), speed.seconds(Operator.ADD, Phase.BACKWARD, _column(trained))
    if profile.weight_casts and precision.bytes < 4:
        forward = forward + speed.seconds(Operator.CAST, Phase.FORWARD, held)
        backward = backward + speed.seconds(Operator.CAST, Phase.BACKWARD, held)
    if method is Method.QLORA:
        unpack = speed.seconds(Operator.CAST, Phase.FORWARD, held)
        forward, backward = forward + unpack, backward + unpack
    return Exposed(forward=forward, backward=backward)


def _column(sizes: Floats) -> Floats:
    ones = np.ones_like(sizes)
    return np.stack([sizes, ones, ones], axis=1)


def _again(profile: Profile, recompute: Ints, found: Passes, rest: Floats) -> Floats:
    """Return the seconds of computing activations again; ``rest`` is a full pass beside its operators."""
    part = profile.selective
    some = (
        part["attention"] * found.forward["attention"]
        + part["products"] * found.forward["compute"]
        + part["elementwise"] * found.forward["memory"]
    )
    whole = stack(found.forward) + rest
    return np.where(
        recompute == RECOMPUTES.index(Recompute.FULL),
        whole,
        np.where(recompute == RECOMPUTES.index(Recompute.SELECTIVE), some, 0.0),
    )


def _launches(work: Work, pool: Pool, recompute: Ints) -> Floats:
    """Return the seconds of launching what does no work, on processor cores."""
    count = coefficients().small_operators
    again = np.where(recompute == RECOMPUTES.index(Recompute.FULL), count["recomputed_block"], 0)
    return launch_seconds(pool) * (count["model"] + work.model.layers * (count["block"] + again.astype(np.float64)))


def _waits(work: Work, profile: Profile, recompute: Ints, forward: Floats, backward: Floats) -> Floats:
    """Return the seconds in which an accelerator waits for its host to launch what layers with experts execute."""
    host = profile.expert_launch_s * work.model.expert_layers
    passes_back = np.where(recompute == RECOMPUTES.index(Recompute.FULL), 2.0, 1.0)
    return np.maximum(0.0, host - forward) + np.maximum(0.0, host * passes_back - backward)


def launch_seconds(pool: Pool) -> float:
    """Return the seconds that launching one small operator costs on processor cores."""
    if pool.rates is not None and pool.rates.dispatch_s > 0:
        return pool.rates.dispatch_s + pool.rates.backward_dispatch_s
    return coefficients().dispatch_s["eager"]
