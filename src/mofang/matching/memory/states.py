"""Weights, gradients, optimiser state and communication buffers on the fullest pipeline stages of an accelerator.

ZeRO (arXiv:1910.02054) says what each stage of sharding cuts; the data file what a framework keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.strategy import Method, Offload, Sharding
from mofang.matching.candidates import METHODS, OFFLOADS, SHARDINGS
from mofang.matching.memory.behaviour import Behaviour, memory_figures
from mofang.matching.memory.formats import EIGHT, HALF_OR_WIDER, WIDE
from mofang.matching.memory.weights import adapters_of, weights_of
from mofang.matching.work import Work

__all__ = ["STATE", "StateColumns", "States", "states"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

STATE = ("tp", "cp", "ep", "pp", "vpp", "dp", "sharding", "precision", "method", "offload")


def _sharding(*members: Sharding) -> Mask:
    """Return, for each code, whether it is one of ``members``."""
    return np.array([sharding in members for sharding in SHARDINGS])


_SHARDED_OPTIMIZER = _sharding(Sharding.ZERO1, Sharding.ZERO2, Sharding.FSDP)
_SHARDED_GRADIENTS = _sharding(Sharding.ZERO2, Sharding.FSDP)
_SHARDED_WEIGHTS = _sharding(Sharding.FSDP)
_FULL = METHODS.index(Method.FULL)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateColumns:
    """The columns that weights, gradients and optimiser state depend on."""

    tp: Ints
    cp: Ints
    ep: Ints
    pp: Ints
    vpp: Ints
    dp: Ints
    sharding: Ints
    precision: Ints
    method: Ints
    offload: Ints
    several: Ints

    def __len__(self) -> int:
        return len(self.tp)


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Bytes on the first stage; ``last`` is what the last stage holds more (or less) of all of them together.

    ``depth`` is the blocks of a stage; ``first_depth`` and ``last_depth`` those whose activations the first and the
    last stage hold at once (1F1B and interleaved: arXiv:2205.05198, section 4.2.3).
    """

    weights: Floats
    gradients: Floats
    optimizer: Floats
    buffers: Floats
    framework: Floats
    last: Floats
    depth: Floats
    first_depth: Floats
    last_depth: Floats

    def whole(self, loose: float) -> Floats:
        """Return the bytes of all parts, with ``loose`` of the buffers on top for what is lost between them."""
        total: Floats = self.weights + self.gradients + self.optimizer + self.framework + self.buffers * (1.0 + loose)
        return total

    @property
    def columns(self) -> tuple[Floats, Floats, Floats, Floats]:
        """What the fuller of the first and the last stage follows from."""
        return self.depth, self.first_depth, self.last_depth, self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Parameters on one stage of one rank, dense and of experts, and how many ranks share them."""

    dense: Floats
    experts: Floats
    dense_ranks: Floats
    expert_ranks: Floats


def _stage_blocks(layers: int, pp: Ints, vpp: Ints) -> Floats:
    """Return the blocks of the fullest stage."""
    chunks = pp * vpp
    return (-(-layers // chunks) * vpp).astype(np.float64)


def states(work: Work, behaviour: Behaviour, c: StateColumns) -> States:
    """Return what the fullest stages hold beside activations; one row a distinct combination."""
    weights, model = weights_of(work.model), work.model
    depth = _stage_blocks(model.layers, c.pp, c.vpp)
    cut = c.tp.astype(np.float64)
    expert_cut = _expert_cut(c)
    ranks = (c.dp * c.cp).astype(np.float64)
    one_stage = c.pp == 1
    tables = weights.embedding + np.where(one_stage & (not weights.tied), weights.head, 0.0)
    first = _Place(
        dense=(depth * weights.block + tables) / cut,
        experts=depth * weights.experts / expert_cut,
        dense_ranks=ranks,
        expert_ranks=np.maximum(ranks * c.tp / expert_cut, 1.0),
    )
    trained = _trained(work, c, first, depth)
    each = _bytes_each(behaviour, c)
    more = np.where(one_stage, 0.0, (weights.head - weights.embedding) / cut)
    held = _shared(each, c, trained)
    frozen = _frozen(behaviour, c, first, tables / cut)
    full = c.method == _FULL
    buffers = _buffers(behaviour, c, first, weights.largest, tables)
    return States(
        weights=held[0] + np.where(full, 0.0, frozen),
        gradients=held[1],
        optimizer=held[2],
        buffers=buffers,
        framework=_framework(c),
        last=more * _per_param(each, c, ranks, full),
        depth=depth,
        first_depth=depth * np.where(c.vpp > 1, c.pp + (c.pp - 1) / c.vpp, c.pp),
        last_depth=depth * np.where(c.vpp > 1, c.pp - (c.pp - 1) / c.vpp, 1.0),
    )


def _trained(work: Work, c: StateColumns, whole: _Place, depth: Floats) -> _Place:
    """Return the parameters that are trained: all, or the adapters alone."""
    adapters = adapters_of(work.model, work.adapter)
    full = c.method == _FULL
    return _Place(
        dense=np.where(full, whole.dense, depth * adapters.block / c.tp),
        experts=np.where(full, whole.experts, depth * adapters.experts / _expert_cut(c)),
        dense_ranks=whole.dense_ranks,
        expert_ranks=whole.expert_ranks,
    )


def _expert_cut(c: StateColumns) -> Floats:
    """Return over how many ranks experts are cut: their own, or the tensor-parallel ones where they have none."""
    return np.where(c.ep > 1, c.ep, c.tp).astype(np.float64)


def _bytes_each(behaviour: Behaviour, c: StateColumns) -> tuple[Floats, Floats, Floats]:
    """Return bytes a trained parameter before sharding and offloading: weights, gradients, optimiser state."""
    figures = memory_figures().state
    wide = WIDE[c.precision]
    weights, gradients, optimizer = (
        np.where(wide, single, other) for single, other in zip(figures["single"], figures[behaviour.state], strict=True)
    )
    return weights, gradients, optimizer


def _shares(c: StateColumns, ranks: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the part of weights, gradients and optimiser state that one rank holds on its device."""
    one = np.ones_like(ranks)
    offload = c.offload != OFFLOADS.index(Offload.NONE)
    away = (c.offload == OFFLOADS.index(Offload.ALL)) & _SHARDED_WEIGHTS[c.sharding]
    weights = np.where(_SHARDED_WEIGHTS[c.sharding], 1.0 / ranks, one) * ~away
    gradients = np.where(_SHARDED_GRADIENTS[c.sharding], 1.0 / ranks, one)
    gradients = gradients * ~(offload & _SHARDED_GRADIENTS[c.sharding])
    optimizer = np.where(_SHARDED_OPTIMIZER[c.sharding], 1.0 / ranks, one) * ~offload
    return weights, gradients, optimizer


def _shared(each: tuple[Floats, Floats, Floats], c: StateColumns, place: _Place) -> list[Floats]:
    dense, experts = _shares(c, place.dense_ranks), _shares(c, place.expert_ranks)
    return [
        size * (place.dense * one + place.experts * other)
        for size, one, other in zip(each, dense, experts, strict=True)
    ]


def _per_param(each: tuple[Floats, Floats, Floats], c: StateColumns, ranks: Floats, full: Mask) -> Floats:
    """Return bytes of one more parameter of a table."""
    shares = _shares(c, ranks)
    total = sum((size * share for size, share in zip(each, shares, strict=True)), np.zeros_like(ranks))
    return np.where(full, total, memory_figures().frozen * shares[0])


def _frozen(behaviour: Behaviour, c: StateColumns, place: _Place, tables: Floats) -> Floats:
    """Return bytes of weights that are not trained; 4-bit ones leave the tables in 16 bits."""
    figures = memory_figures()
    eight = EIGHT[c.precision] & behaviour.fp8_inputs
    plain = np.where(WIDE[c.precision], 4.0, np.where(eight, 1.0, figures.frozen))
    block = np.where(c.method == METHODS.index(Method.QLORA), figures.quantised, plain)
    dense = block * (place.dense - tables) + plain * tables
    experts = block * place.experts
    total: Floats = dense * _shares(c, place.dense_ranks)[0] + experts * _shares(c, place.expert_ranks)[0]
    return total


def _buffers(behaviour: Behaviour, c: StateColumns, place: _Place, largest: float, tables: Floats) -> Floats:
    """Gathered weights, and gradients on their way: of blocks and tables under FSDP, of everything in a pipeline.

    A pipeline stage under FSDP keeps its weights gathered, or it would gather them for every micro-batch; without
    sharding, weights kept in fp32 are cast once for the products.
    """
    sharded = _SHARDED_WEIGHTS[c.sharding]
    ranks = place.dense_ranks > 1
    alone = c.sharding == SHARDINGS.index(Sharding.DDP)
    element = HALF_OR_WIDER[c.precision]
    cut = c.tp.astype(np.float64)
    every = place.dense + place.experts
    block = np.minimum(largest / _expert_cut(c), every)
    gathered = np.where(c.pp > 1, every, behaviour.gathered_blocks * block + tables / cut)
    reduced = (behaviour.reduced + element) * block
    if behaviour.live_params:  # gathered product by product, reduced through buckets
        gathered, reduced = np.minimum(every, np.maximum(behaviour.live_params, block)), np.zeros_like(reduced)
    full = c.method == _FULL
    reduced = np.where(behaviour.whole_gradients & (c.several > 0), 4.0 * every, reduced) * full
    fsdp = element * gathered + reduced
    buckets = behaviour.bucket_params * element * 2.0 * ~alone
    cast = np.where(WIDE[c.precision] | (behaviour.state != "single"), 0.0, element * every) * full
    total: Floats = buckets + np.where(sharded, fsdp * ranks, cast)
    return total


def _framework(c: StateColumns) -> Floats:
    """The context, and the buffers of each group of ranks that communicates."""
    figures = memory_figures()
    groups = sum(((size > 1).astype(np.float64) for size in (c.tp, c.pp, c.cp, c.ep, c.dp)), np.zeros(len(c)))
    return figures.context + figures.communicator * groups
