"""Parameters of a model by where parallelism puts them."""

from __future__ import annotations

from dataclasses import dataclass

from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Adapter

__all__ = ["Adapters", "Weights", "adapters_of", "weights_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Parameters: of the mean block without its experts, of all experts in it, of the largest block, of the tables.

    ``embedding`` counts the input tables, ``head`` the output table (the same numbers again where they are tied).
    """

    block: float
    experts: float
    largest: float
    embedding: float
    head: float
    tied: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """Parameters of low-rank adapters in the mean block, beside its dense products and its experts."""

    block: float
    experts: float


def weights_of(model: ModelArchitecture) -> Weights:
    """Return a model's parameters by place."""
    moe = model.moe
    routed = 0.0 if moe is None else float(moe.num_experts * model.ffn_params(moe.expert_ffn))
    table = float(model.vocab * model.hidden)
    rest = float(model.params - model.embedding_params) - routed * model.expert_layers
    return Weights(
        block=rest / model.layers,
        experts=routed * model.expert_layers / model.layers,
        largest=float(max(model.layer_params(0), model.layer_params(model.layers - 1))),
        embedding=float(model.embedding_params) - (0.0 if model.tied_embeddings else table),
        head=table,
        tied=model.tied_embeddings,
    )


def adapters_of(model: ModelArchitecture, adapter: Adapter) -> Adapters:
    """Return the adapters' parameters: rank x (inputs + outputs) of each product they stand beside.

    LoRA (arXiv:2106.09685, section 4). Targets carry the names of Llama's modules; other names are left out.
    """
    dense = model.layers - model.expert_layers
    block = _attention_sizes(model, adapter.targets) + _ffn_sizes(model, model.ffn, adapter.targets) * dense / max(
        model.layers, 1
    )
    experts = 0.0
    if model.moe is not None:
        part = model.expert_layers / model.layers
        experts = part * model.moe.num_experts * _ffn_sizes(model, model.moe.expert_ffn, adapter.targets)
        block += part * (_ffn_sizes(model, model.moe.shared_ffn, adapter.targets) if model.moe.num_shared else 0.0)
    return Adapters(block=adapter.rank * block, experts=adapter.rank * experts)


def _attention_sizes(model: ModelArchitecture, targets: tuple[str, ...]) -> float:
    query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
    value = key
    if model.latent is not None:
        head = model.latent.qk_nope_head_dim + model.latent.qk_rope_head_dim
        query, value = model.heads * head, model.latent.v_head_dim * model.heads
        key = model.latent.kv_lora_rank
    sizes = {"q_proj": query, "k_proj": key, "v_proj": value, "o_proj": query}
    return float(sum(model.hidden + size for name, size in sizes.items() if name in targets))


def _ffn_sizes(model: ModelArchitecture, size: int, targets: tuple[str, ...]) -> float:
    products = ("gate_proj", "up_proj", "down_proj") if model.gated_ffn else ("up_proj", "down_proj")
    return float(sum(model.hidden + size for name in products if name in targets))
