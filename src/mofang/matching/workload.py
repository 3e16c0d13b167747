"""A model and a sequence length as the list of operators that one micro-batch and one update execute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.model import ModelArchitecture, MultiHeadLatent
from mofang.domain.rates import Operator

__all__ = ["Use", "micro_batch_uses", "update_uses"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """An operator used ``times`` a micro-batch; its first size grows with the micro-batch, the others do not.

    ``in_block`` marks what lies inside a transformer block, and is computed again under full recomputation.
    """

    operator: Operator
    times: int
    first: float  # a sequence
    rest: tuple[int, int] = (1, 1)
    in_block: bool = True

    def shapes(self, micro_batch: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sizes (Q x 3) at each micro-batch."""
        return np.stack([self.first * micro_batch, *(np.full_like(micro_batch, size) for size in self.rest)], axis=1)


def micro_batch_uses(model: ModelArchitecture, sequence: int) -> tuple[Use, ...]:
    """Return what one sequence of a micro-batch executes, in the order of the model."""
    width = model.hidden
    norms = model.norms_per_layer * model.layers
    head = (
        Use(operator=Operator.EMBEDDING, times=1, first=sequence, rest=(model.vocab, width), in_block=False),
        Use(operator=Operator.NORM, times=1, first=sequence, rest=(width, 1), in_block=False),
        Use(operator=Operator.LINEAR, times=1, first=sequence, rest=(model.vocab, width), in_block=False),
        Use(operator=Operator.CROSS_ENTROPY, times=1, first=sequence, rest=(model.vocab, 1), in_block=False),
    )
    shared = (
        Use(operator=Operator.NORM, times=norms, first=sequence, rest=(width, 1)),
        Use(operator=Operator.ADD, times=2 * model.layers, first=sequence, rest=(width, 1)),
    )
    return (*head, *shared, *_attention_uses(model, sequence), *_ffn_uses(model, sequence))


def _linear(times: int, rows: float, outputs: int, inputs: int) -> Use:
    return Use(operator=Operator.LINEAR, times=times, first=rows, rest=(outputs, inputs))


def _attention_uses(model: ModelArchitecture, sequence: int) -> tuple[Use, ...]:
    layers, width = model.layers, model.hidden
    if model.latent is not None:
        return _latent_uses(model, model.latent, sequence)
    query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
    return (
        _linear(layers, sequence, query + 2 * key, width),
        Use(operator=Operator.ROPE, times=layers, first=sequence, rest=(query + key, 1)),
        Use(operator=Operator.ATTENTION, times=layers, first=model.heads, rest=(sequence, model.head_dim)),
        _linear(layers, sequence, width, query),
    )


def _latent_uses(model: ModelArchitecture, sizes: MultiHeadLatent, sequence: int) -> tuple[Use, ...]:
    layers, width, heads = model.layers, model.hidden, model.heads
    head = sizes.qk_nope_head_dim + sizes.qk_rope_head_dim
    if sizes.q_lora_rank is None:
        query: tuple[Use, ...] = (_linear(layers, sequence, heads * head, width),)
    else:
        query = (
            _linear(layers, sequence, sizes.q_lora_rank, width),
            _linear(layers, sequence, heads * head, sizes.q_lora_rank),
        )
    return (
        *query,
        _linear(layers, sequence, sizes.kv_lora_rank + sizes.qk_rope_head_dim, width),
        _linear(layers, sequence, heads * (sizes.qk_nope_head_dim + sizes.v_head_dim), sizes.kv_lora_rank),
        Use(operator=Operator.ROPE, times=layers, first=sequence, rest=(heads * sizes.qk_rope_head_dim, 1)),
        Use(operator=Operator.ATTENTION, times=layers, first=heads, rest=(sequence, (head + sizes.v_head_dim) // 2)),
        _linear(layers, sequence, width, heads * sizes.v_head_dim),
    )


def _ffn_uses(model: ModelArchitecture, sequence: int) -> tuple[Use, ...]:
    moe = model.moe
    dense = model.layers if moe is None else min(moe.dense_layers, model.layers)
    uses = _ffn(model, dense, sequence, model.ffn)
    if moe is not None:
        sparse = model.layers - dense
        # Tokens are taken to spread evenly over the experts, whose products run as one grouped product.
        uses += (_linear(sparse, sequence, moe.num_experts, model.hidden),)
        uses += _ffn(model, sparse, sequence * moe.top_k, moe.expert_ffn)
        uses += _ffn(model, sparse if moe.num_shared else 0, sequence, moe.shared_ffn)
    return uses


def _ffn(model: ModelArchitecture, layers: int, rows: float, size: int) -> tuple[Use, ...]:
    if not layers:
        return ()
    return (
        _linear(layers, rows, (2 if model.gated_ffn else 1) * size, model.hidden),
        Use(operator=Operator.GATED, times=layers, first=rows, rest=(size, 1)),
        _linear(layers, rows, model.hidden, size),
    )


def update_uses(params_on_rank: NDArray[np.float64]) -> tuple[tuple[Operator, NDArray[np.float64]], ...]:
    """Return the operators of one update with their sizes (Q x 3), for each number of parameters a rank holds."""
    ones = np.ones_like(params_on_rank)
    shapes = np.stack([params_on_rank, ones, ones], axis=1)
    return ((Operator.CLIP, shapes), (Operator.ADAMW, shapes))
