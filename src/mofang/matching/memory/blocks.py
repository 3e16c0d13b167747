"""Bytes of activations that one transformer block keeps for its backward pass, a token.

Korthikanti et al. (arXiv:2205.05198), section 4 and table 2, counted tensor by tensor so that grouped-query and latent
attention, gated feed-forward blocks, experts and fused attention follow from the same sums. With ``flash=False``,
``dropout=True`` and GPT's sizes the sums are the paper's: s b h (10 + 24/t + 5 a s / (h t)) under tensor parallelism,
s b h / t (34 + 5 a s / h) with sequence parallelism.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.model import MixtureOfExperts, ModelArchitecture, MultiHeadLatent

__all__ = ["BlockUse", "Saved", "saved_by_block"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockUse:
    """How blocks are computed; one row a distinct way.

    ``element`` is bytes of an activation, ``kept`` bytes of a product's input as it is kept, ``tp`` the tensor-parallel
    cut, ``spread`` the cut of what lies between the products (tp with sequence parallelism, else 1), ``keys`` the
    tokens that each query sees.
    """

    element: Floats
    kept: Floats
    tp: Floats
    spread: Floats
    keys: Floats
    fused_gate: NDArray[np.bool_]
    norm_copies: int = 0
    flash: bool = True
    dropout: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """Bytes a token that the mean block keeps, by what is computed again.

    Nothing, the attention core, every second product, all but attention's projections, every second block, everything.
    """

    whole: Floats
    attention: Floats
    operators: Floats
    projections: Floats
    blocks: Floats
    input: Floats


def saved_by_block(model: ModelArchitecture, use: BlockUse) -> Saved:
    """Return the bytes a token of the mean block, by what is kept."""
    norms = model.hidden * (2.0 * use.element + 8.0 * use.norm_copies * (use.element < 4) + 2.0 * use.kept) / use.spread
    masks = 2.0 * model.hidden * use.dropout / use.spread
    attention = _latent(model.latent, model.heads, use) if model.latent else _grouped(model, use)
    core = _core(model, use)
    ffn, ffn_products = _ffns(model, use)
    whole = norms + masks + attention + core + ffn
    first = model.hidden * use.element / use.spread
    # Every second product's result and attention's: the query, the value, gate, the block's last.
    width = (model.heads + model.kv_heads + model.heads) * model.head_dim
    operators = first + use.element * width / use.tp + ffn_products + first
    return Saved(
        whole=whole,
        attention=whole - core,
        operators=np.minimum(operators, whole),
        projections=np.minimum(first + attention, whole),
        blocks=0.5 * (whole + first),
        input=first,
    )


def _grouped(model: ModelArchitecture, use: BlockUse) -> Floats:
    """Query, keys, values and the mixed values; keys are copied where there are fewer heads of them than ranks."""
    query = model.heads * model.head_dim / use.tp
    keys = np.maximum(model.kv_heads / use.tp, 1.0) * model.head_dim
    total: Floats = use.element * (2.0 * query + 2.0 * keys)
    return total


def _latent(sizes: MultiHeadLatent, heads: int, use: BlockUse) -> Floats:
    """Latent attention (arXiv:2405.04434, section 2.1): compressed and normalised vectors, then full heads."""
    head = sizes.qk_nope_head_dim + sizes.qk_rope_head_dim
    full = heads * (2.0 * head + 2.0 * sizes.v_head_dim) / use.tp
    down = 2.0 * ((sizes.q_lora_rank or 0) + sizes.kv_lora_rank) + sizes.qk_rope_head_dim
    total: Floats = use.element * (full + down / use.spread)
    return total


def _core(model: ModelArchitecture, use: BlockUse) -> Floats:
    """What the attention core keeps: one fp32 a head and query where it is fused, else the probabilities.

    Those are the softmax's result, and with dropout its mask and its result too: 5 a s b s bytes in the paper.
    """
    heads = model.heads / use.tp
    if use.flash:
        return 4.0 * heads
    each = 2.0 * use.element + 1.0 if use.dropout else use.element
    total: Floats = heads * use.keys * each
    return total


def _ffns(model: ModelArchitecture, use: BlockUse) -> tuple[Floats, Floats]:
    """Return the bytes of the mean block's feed-forward part, and those of every second product in it."""
    part = model.expert_layers / model.layers
    whole, products = (1.0 - part) * _ffn(model, float(model.ffn), use), (1.0 - part) * use.element * model.ffn / use.tp
    if model.moe is not None:
        whole = whole + part * _experts(model, model.moe, use)
        size = model.moe.top_k * model.moe.expert_ffn + model.moe.shared_ffn
        products = products + part * use.element * (size + model.moe.top_k * model.hidden) / use.tp
    return whole, products


def _ffn(model: ModelArchitecture, size: float, use: BlockUse) -> Floats:
    """Inputs of the activation, and its result as the next product's input."""
    inputs = np.where(use.fused_gate, 2.0, 3.0) if model.gated_ffn else 1.0
    total: Floats = size * (inputs * use.element + use.kept) / use.tp
    return total


def _experts(model: ModelArchitecture, moe: MixtureOfExperts, use: BlockUse) -> Floats:
    """Tokens sent to their experts and back, the experts' own part, the router's scores, the shared experts."""
    sent = moe.top_k * model.hidden * (use.kept + use.element)
    scores = 8.0 * moe.num_experts
    routed = _ffn(model, float(moe.top_k * moe.expert_ffn), use)
    total: Floats = (sent + scores) / use.tp + routed + _ffn(model, float(moe.shared_ffn), use)
    return total
