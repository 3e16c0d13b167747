"""A model as the list of operators that one rank executes in one micro-batch, for many cuts at once.

Tensor parallelism cuts heads and feed-forward columns (arXiv:1909.08053), sequence parallelism what lies between the
products (arXiv:2205.05198), context parallelism the sequence, expert parallelism the experts. Pipeline stages are not
cut here: the list is of all layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mofang.domain.model import MixtureOfExperts, ModelArchitecture, MultiHeadLatent
from mofang.domain.rates import Operator
from mofang.matching.work import Work

__all__ = ["Cut", "Place", "Use", "micro_batch_uses", "update_uses"]

Floats = NDArray[np.float64]


class Place(StrEnum):
    """Which part of the model an operator belongs to."""

    BLOCK = "block"  # a transformer block: computed again under full recomputation, on every pipeline stage
    TABLE = "table"  # the input embedding: on the first stage
    HEAD = "head"  # the last norm, the head and the loss: on the last stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How ranks share a micro-batch; one row a way. ``imbalance`` is rows of the busiest rank's experts over the mean.

    ``sequence_parallel``: what lies between the products is cut by tp too.
    """

    tp: Floats
    cp: Floats
    ep: Floats
    micro_batch: Floats
    sequence_parallel: bool = True
    imbalance: float = 1.0

    @property
    def expert_tp(self) -> Floats:
        """By how much each expert's own matrices are cut: not at all where experts are spread over ranks."""
        return np.where(self.ep > 1, 1.0, self.tp)

    @property
    def spread(self) -> Floats:
        """By how much the tokens between the products are cut."""
        return self.tp if self.sequence_parallel else np.ones_like(self.tp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """An operator used ``times`` a micro-batch at these sizes (Q x 3, as ``Operator`` names them).

    ``frozen`` weights have no gradient of their own; ``groups`` products of these sizes run as one (experts).
    """

    operator: Operator
    times: float
    shapes: Floats
    place: Place = Place.BLOCK
    frozen: bool = False
    groups: Floats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """What the parts of the list are made from; arrays have one row a cut."""

    model: ModelArchitecture
    cut: Cut
    tokens: Floats  # that a rank of the context-parallel group sees
    sequence: float
    whole: float  # pairs of positions over those of a causal mask
    rank: int  # of the adapters; 0: none
    targets: frozenset[str]
    frozen: bool
    between: Floats = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "between", self.tokens / self.cut.spread)

    def use(self, operator: Operator, times: float, *sizes: Floats | float, place: Place = Place.BLOCK) -> Use:
        """Return an operator without weights to train."""
        return Use(operator=operator, times=times, shapes=_shapes(self.cut, *sizes), place=place)

    def product(self, times: float, rows: Floats, outputs: Floats | float, inputs: Floats | float) -> Use:
        """Return a product of the block with its weights; they are frozen where adapters are trained instead."""
        shapes = _shapes(self.cut, rows, outputs, inputs)
        return Use(operator=Operator.LINEAR, times=times, shapes=shapes, frozen=self.frozen)

    def adapters(
        self, times: float, rows: Floats, outputs: Floats | float, inputs: Floats | float, name: str
    ) -> tuple[Use, ...]:
        """Return the two thin products beside a target, and the sum of both paths."""
        if not self.rank or name not in self.targets:
            return ()
        return (
            self._thin(times, rows, float(self.rank), inputs),
            self._thin(times, rows, outputs, float(self.rank)),
            self.use(Operator.ADD, times, rows, outputs),
        )

    def _thin(self, times: float, rows: Floats, outputs: Floats | float, inputs: Floats | float) -> Use:
        return Use(operator=Operator.LINEAR, times=times, shapes=_shapes(self.cut, rows, outputs, inputs))


def _shapes(cut: Cut, *sizes: Floats | float) -> Floats:
    padded = (*sizes, 1.0, 1.0)[:3]
    return np.stack(np.broadcast_arrays(*padded, cut.tp)[:3], axis=1).astype(np.float64)


def micro_batch_uses(work: Work, cut: Cut, *, adapters: bool = False) -> tuple[Use, ...]:
    """Return what one rank executes in one micro-batch; with ``adapters`` the model's own weights are frozen."""
    model = work.model
    sizes = _Sizes(
        model=model,
        cut=cut,
        tokens=cut.micro_batch * work.sequence / cut.cp,
        sequence=float(work.sequence),
        whole=1.0 if work.causal else 2.0,
        rank=work.adapter.rank if adapters else 0,
        targets=frozenset(work.adapter.targets),
        frozen=adapters,
    )
    latent = model.latent
    attention = _grouped_uses(sizes) if latent is None else _latent_uses(sizes, latent)
    return (*_outer_uses(sizes, work), *_common_uses(sizes), *attention, *_ffn_uses(sizes))


def _outer_uses(sizes: _Sizes, work: Work) -> tuple[Use, ...]:
    """Return what lies outside of the blocks: the table, the last norm, the head and the loss."""
    model, cut = sizes.model, sizes.cut
    part = 1.0 if work.head_tokens is None else work.head_tokens / work.sequence
    rows, width = sizes.tokens * part, float(model.hidden)
    vocab = model.vocab / cut.tp
    shapes = _shapes(cut, rows, vocab, width)
    return (
        Use(
            operator=Operator.EMBEDDING,
            times=1,
            shapes=_shapes(cut, sizes.between, vocab, width),
            place=Place.TABLE,
            frozen=sizes.frozen,
        ),
        sizes.use(Operator.NORM, 1, sizes.between, width, place=Place.HEAD),
        Use(operator=Operator.LINEAR, times=1, shapes=shapes, place=Place.HEAD, frozen=sizes.frozen),
        sizes.use(Operator.CROSS_ENTROPY, 1, rows, vocab, place=Place.HEAD),
    )


def _common_uses(sizes: _Sizes) -> tuple[Use, ...]:
    model, width = sizes.model, float(sizes.model.hidden)
    return (
        sizes.use(Operator.NORM, model.norms_per_layer * model.layers, sizes.between, width),
        sizes.use(Operator.ADD, 2 * model.layers, sizes.between, width),
    )


def _grouped_uses(sizes: _Sizes) -> tuple[Use, ...]:
    model, cut, rows = sizes.model, sizes.cut, sizes.tokens
    layers, width = float(model.layers), float(model.hidden)
    query = model.heads * model.head_dim / cut.tp
    key = np.maximum(model.kv_heads / cut.tp, 1.0) * model.head_dim
    return (
        sizes.product(layers, rows, query + 2.0 * key, width),
        *sizes.adapters(layers, rows, query, width, "q_proj"),
        *sizes.adapters(layers, rows, key, width, "k_proj"),
        *sizes.adapters(layers, rows, key, width, "v_proj"),
        sizes.use(Operator.ROPE, layers, rows, query + key),
        _core(sizes, float(model.head_dim)),
        sizes.product(layers, rows, width, query),
        *sizes.adapters(layers, rows, width, query, "o_proj"),
    )


def _core(sizes: _Sizes, head: float) -> Use:
    """Return attention itself: each rank has its heads and its (balanced) part of the pairs of positions."""
    heads = sizes.model.heads * sizes.cut.micro_batch / (sizes.cut.tp * sizes.cut.cp)
    return sizes.use(Operator.ATTENTION, sizes.whole * sizes.model.layers, heads, sizes.sequence, head)


def _latent_uses(sizes: _Sizes, latent: MultiHeadLatent) -> tuple[Use, ...]:
    """Return multi-head latent attention (arXiv:2405.04434, section 2.1); what goes down to the latent is not cut."""
    model, cut, rows = sizes.model, sizes.cut, sizes.tokens
    layers, width = float(model.layers), float(model.hidden)
    heads = model.heads / cut.tp
    head = latent.qk_nope_head_dim + latent.qk_rope_head_dim
    if latent.q_lora_rank is None:
        query: tuple[Use, ...] = (sizes.product(layers, rows, heads * head, width),)
    else:
        rank = float(latent.q_lora_rank)
        query = (
            sizes.product(layers, sizes.between, rank, width),
            sizes.product(layers, rows, heads * head, rank),
            sizes.use(Operator.NORM, layers, sizes.between, rank),
        )
    return (
        *query,
        *sizes.adapters(layers, rows, heads * head, width, "q_proj"),
        sizes.product(layers, sizes.between, float(latent.kv_lora_rank + latent.qk_rope_head_dim), width),
        sizes.use(Operator.NORM, layers, sizes.between, float(latent.kv_lora_rank)),
        sizes.product(layers, rows, heads * (latent.qk_nope_head_dim + latent.v_head_dim), float(latent.kv_lora_rank)),
        sizes.use(Operator.ROPE, layers, rows, heads * latent.qk_rope_head_dim),
        _core(sizes, (head + latent.v_head_dim) / 2.0),
        sizes.product(layers, rows, width, heads * latent.v_head_dim),
        *sizes.adapters(layers, rows, width, heads * latent.v_head_dim, "o_proj"),
    )


def _ffn_uses(sizes: _Sizes) -> tuple[Use, ...]:
    model = sizes.model
    sparse = float(model.expert_layers)
    uses = _ffn(sizes, model.layers - sparse, sizes.tokens, model.ffn / sizes.cut.tp)
    if model.moe is None:
        return uses
    shared = sparse if model.moe.num_shared else 0.0
    return (
        *uses,
        *_expert_uses(sizes, model.moe, sparse),
        *_ffn(sizes, shared, sizes.tokens, model.moe.shared_ffn / sizes.cut.tp),
    )


def _expert_uses(sizes: _Sizes, moe: MixtureOfExperts, layers: float) -> tuple[Use, ...]:
    """Return the router, the way to the experts and back, and the experts themselves as grouped products."""
    cut, width = sizes.cut, float(sizes.model.hidden)
    # Spread experts take the tokens of the sequence-parallel shards; otherwise each rank has a slice of every expert.
    sent = moe.top_k * sizes.tokens / np.where(cut.ep > 1, cut.tp, 1.0)
    local = np.maximum(moe.num_experts / cut.ep, 1.0)
    each = sent * cut.imbalance / local
    size = moe.expert_ffn / cut.expert_tp
    matrices = 2.0 if sizes.model.gated_ffn else 1.0
    return (
        sizes.use(Operator.LINEAR, layers, sizes.between, float(moe.num_experts), width),
        sizes.use(Operator.ADD, 2.0 * layers, sent, width),
        _grouped(sizes, layers, _shapes(cut, each, matrices * size, width), local),
        sizes.use(Operator.GATED, layers, sent * cut.imbalance, size),
        _grouped(sizes, layers, _shapes(cut, each, width, size), local),
    )


def _grouped(sizes: _Sizes, layers: float, shapes: Floats, groups: Floats) -> Use:
    return Use(operator=Operator.LINEAR, times=layers, shapes=shapes, frozen=sizes.frozen, groups=groups)


def _ffn(sizes: _Sizes, layers: float, rows: Floats, size: Floats) -> tuple[Use, ...]:
    if not layers:
        return ()
    width = float(sizes.model.hidden)
    gates = sizes.adapters(layers, rows, size, width, "gate_proj") if sizes.model.gated_ffn else ()
    return (
        sizes.product(layers, rows, (2.0 if sizes.model.gated_ffn else 1.0) * size, width),
        *gates,
        *sizes.adapters(layers, rows, size, width, "up_proj"),
        sizes.use(Operator.GATED, layers, rows, size),
        sizes.product(layers, rows, width, size),
        *sizes.adapters(layers, rows, width, size, "down_proj"),
    )


def update_uses(params_on_rank: Floats) -> tuple[tuple[Operator, Floats], ...]:
    """Return the operators of one update with their sizes (Q x 3), for each number of parameters a rank holds."""
    ones = np.ones_like(params_on_rank)
    shapes = np.stack([params_on_rank, ones, ones], axis=1)
    return ((Operator.CLIP, shapes), (Operator.ADAMW, shapes))
