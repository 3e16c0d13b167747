"""Bytes of a training job on its fullest accelerator, array-at-a-time.

What depends only on how blocks are computed (tensor and context parallelism, micro-batch, precision, recomputation) is
computed once for each distinct combination; what depends on pipeline stages, data parallelism and sharding for each
distinct combination of those; candidates gather from both tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.strategy import Recompute
from mofang.matching.candidates import RECOMPUTES, Candidates
from mofang.matching.codes import blocks, combinations
from mofang.matching.memory.behaviour import Behaviour, memory_figures
from mofang.matching.memory.blocks import BlockUse, saved_by_block
from mofang.matching.memory.formats import EIGHT, HALF_OR_WIDER
from mofang.matching.memory.states import STATE, StateColumns, States, states
from mofang.matching.work import Work

__all__ = ["PARTS", "device_parts"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "framework", "fragmentation")


_FULL = RECOMPUTES.index(Recompute.FULL)
_SELECTIVE = RECOMPUTES.index(Recompute.SELECTIVE)
_WAY = ("tp", "cp", "micro_batch", "precision", "recompute", "compile")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """Bytes of one micro-batch on one rank: kept by a block, needed while one is passed backward, for the logits."""

    kept: Floats
    passing: Floats
    logits: Floats


def device_parts(work: Work, candidates: Candidates, behaviour: Behaviour) -> Mapping[str, Floats]:
    """Return bytes by part of the fullest device of each candidate."""
    ways = combinations({name: getattr(candidates, name) for name in _WAY})
    several = (candidates.accumulation > 1).astype(np.int64)
    shares = combinations({name: getattr(candidates, name) for name in STATE} | {"several": several})
    held = states(work, behaviour, StateColumns(**shares.columns))
    return _assemble(candidates, _blocks(work, behaviour, ways.columns), ways.place, held, shares.place)


def _blocks(work: Work, behaviour: Behaviour, columns: Mapping[str, Ints]) -> _Blocks:
    """Return what one micro-batch needs on one rank; one row a distinct way to compute it."""
    precision, recompute = columns["precision"], columns["recompute"]
    cut, compiled = columns["tp"].astype(np.float64), columns["compile"] > 0
    tokens = columns["micro_batch"] * (work.sequence / columns["cp"])
    element = HALF_OR_WIDER[precision]
    use = BlockUse(
        element=element,
        kept=np.where(EIGHT[precision] & behaviour.fp8_inputs, 1.0, element),
        tp=cut,
        spread=cut if behaviour.sequence_parallel else np.ones_like(cut),
        keys=np.full_like(cut, float(work.sequence)),
        fused_gate=behaviour.fused_gate | compiled,
        norm_copies=behaviour.norm_copies,
    )
    saved = saved_by_block(work.model, use)
    selective = getattr(saved, behaviour.selective)
    kept = np.where(recompute == _FULL, saved.input, np.where(recompute == _SELECTIVE, selective, saved.whole))
    again = np.where(recompute == _FULL, saved.whole, saved.whole - kept)
    # With sequence parallelism a product's input is gathered from all ranks, and so is its gradient.
    gathered = np.where(use.spread > 1, 2.0 * work.model.hidden * element, 0.0)
    passing = again + memory_figures().backward_block * saved.whole + gathered
    head = 1.0 if work.head_tokens is None else work.head_tokens / work.sequence
    each = np.where(compiled, behaviour.logits_compiled, behaviour.logits)
    return _Blocks(kept=tokens * kept, passing=tokens * passing, logits=tokens * head * each * work.model.vocab / cut)


def _assemble(
    c: Candidates, each: _Blocks, way: NDArray[np.intp], held: States, state: NDArray[np.intp]
) -> Mapping[str, Floats]:
    """Gather both tables and take the fuller of the first and the last stage.

    The first stage holds the most micro-batches, the last one the logits, which share their room with the block that
    is passed backward: they are gone when it begins.
    """
    parts = {name: np.empty(len(c)) for name in PARTS}
    loose = memory_figures().fragmentation
    for rows in blocks(len(c)):
        at, how = state[rows], way[rows]
        for name in ("gradients", "optimizer", "framework", "weights", "buffers"):
            np.take(getattr(held, name), at, out=parts[name][rows], mode="clip")
        kept, passing, logits = (column.take(how, mode="clip") for column in (each.kept, each.passing, each.logits))
        depth, first, last, more = (column.take(at, mode="clip") for column in held.columns)
        depth *= c.accumulation[rows]
        first = kept * np.minimum(first, depth)
        last = kept * np.minimum(last, depth)
        beyond = np.maximum(logits - passing, 0.0)
        is_last = last + beyond + more >= first
        parts["weights"][rows] += more * is_last
        np.add(np.where(is_last, last, first), passing, out=parts["activations"][rows])
        np.multiply(beyond, is_last, out=parts["logits"][rows])
        loosely = parts["activations"][rows] + parts["logits"][rows] + parts["buffers"][rows]
        np.multiply(loosely, loose, out=parts["fragmentation"][rows])
    return parts
