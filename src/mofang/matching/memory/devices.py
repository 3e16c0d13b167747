"""Bytes of a training job on its fullest accelerator, array-at-a-time.

What depends only on how blocks are computed (tensor and context parallelism, micro-batch, precision, recomputation) is
computed once for each distinct combination; what depends on pipeline stages, data parallelism and sharding for each
distinct combination of those; candidates gather from both tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mofang.domain.strategy import Recompute
from mofang.matching.candidates import RECOMPUTES, Candidates
from mofang.matching.codes import Axes, Combinations
from mofang.matching.memory.behaviour import Behaviour, memory_figures
from mofang.matching.memory.blocks import BlockUse, saved_by_block
from mofang.matching.memory.formats import EIGHT, HALF_OR_WIDER
from mofang.matching.memory.states import STATE, StateColumns, States, states
from mofang.matching.work import Work

__all__ = ["PARTS", "DeviceMemory", "device_memory"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "framework", "fragmentation")


_FULL = RECOMPUTES.index(Recompute.FULL)
_SELECTIVE = RECOMPUTES.index(Recompute.SELECTIVE)
_WAY = ("tp", "cp", "micro_batch", "precision", "recompute", "compile")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """Bytes of one micro-batch on one rank: kept by a block, needed while one is passed backward.

    ``beyond`` is by how much the logits are larger than that.
    """

    kept: Floats
    passing: Floats
    beyond: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """Candidates with their rows in both tables: ``each`` by ``ways``, ``held`` by ``shares``."""

    accumulation: Floats
    ways: Combinations
    each: _Blocks
    shares: Combinations
    held: States

    def where(self, rows: Ints | slice) -> DeviceMemory:
        """Return some of the candidates (of a grid, some layouts)."""
        accumulation = self.accumulation[..., rows]
        return replace(self, accumulation=accumulation, ways=self.ways.where(rows), shares=self.shares.where(rows))

    def parts(self) -> Mapping[str, Floats]:
        """Return bytes by part of the fullest device of each candidate."""
        at = self.shares.place
        more, activations, logits = self._fuller(at)
        names = ("weights", "gradients", "optimizer", "buffers", "framework")
        parts = {name: getattr(self.held, name)[at] for name in names}
        parts["weights"] += more
        parts |= {"activations": activations, "logits": logits}
        parts["fragmentation"] = memory_figures().fragmentation * (activations + logits + parts["buffers"])
        return {name: parts[name] for name in PARTS}

    def bytes(self) -> Floats:
        """Return the bytes of the fullest device of each candidate: the sum of ``parts``."""
        at, loose = self.shares.place, memory_figures().fragmentation
        more, total, logits = self._fuller(at)
        total += logits
        total *= 1.0 + loose
        total += self.held.whole(loose).take(at)
        total += more
        return total

    def _fuller(self, at: NDArray[np.intp]) -> tuple[Floats, Floats, Floats]:
        """Return bytes of the fuller of the first and the last stage: beyond the first's weights, activations, logits.

        The first stage holds the most micro-batches, the last one the logits, which share their room with the block
        that is passed backward: they are gone when it begins.
        """
        how = self.ways.place
        kept, passing, beyond = (column.take(how) for column in (self.each.kept, self.each.passing, self.each.beyond))
        depth, first, last, more = (column.take(at) for column in self.held.columns)
        depth *= self.accumulation
        np.minimum(first, depth, out=first)
        np.minimum(last, depth, out=last)
        first *= kept
        last *= kept
        is_last = last + beyond + more >= first
        activations = np.where(is_last, last, first)
        activations += passing
        more *= is_last
        beyond *= is_last
        return more, activations, beyond


def device_memory(work: Work, c: Candidates, behaviour: Behaviour) -> DeviceMemory:
    """Return the memory of candidates on accelerators."""
    names = {*_WAY, *STATE}
    axes = Axes({name: getattr(c, name) for name in names} | {"several": (c.accumulation > 1).astype(np.int64)})
    ways, shares = axes.combinations(_WAY), axes.combinations((*STATE, "several"))
    return DeviceMemory(
        accumulation=c.accumulation.astype(np.float64),
        ways=ways,
        each=_blocks(work, behaviour, ways.columns),
        shares=shares,
        held=states(work, behaviour, StateColumns(**shares.columns)),
    )


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
    logits, passing = tokens * head * each * work.model.vocab / cut, tokens * passing
    return _Blocks(kept=tokens * kept, passing=passing, beyond=np.maximum(logits - passing, 0.0))
