"""How many parameters a rank holds, trains and gathers, by what cuts them."""

from __future__ import annotations

from dataclasses import dataclass

from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Adapter
from mofang.domain.strategy import Method
from mofang.matching.work import Work

__all__ = ["Params", "params_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Parameters of the whole model: ``dense`` are cut by tensor parallelism, ``experts`` by expert parallelism.

    ``trained`` are those of either kind that have gradients, ``blocks`` those of the blocks' own products.
    """

    dense: float
    experts: float
    trained_dense: float
    trained_experts: float
    blocks: float


def params_of(work: Work, method: Method) -> Params:
    """Return the parameters of a work's model by place, under a method."""
    model = work.model
    moe = model.moe
    experts = 0.0 if moe is None else float(moe.num_experts * model.ffn_params(moe.expert_ffn) * model.expert_layers)
    dense = model.params - experts
    full = method is Method.FULL
    return Params(
        dense=dense,
        experts=experts,
        trained_dense=dense if full else _adapters(model, work.adapter),
        trained_experts=experts if full else 0.0,
        blocks=dense - model.embedding_params,
    )


def _adapters(model: ModelArchitecture, adapter: Adapter) -> float:
    """Return the parameters of adapters: rank x (inputs + outputs) of each target (arXiv:2106.09685, section 4)."""
    query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
    sizes = {"q_proj": query, "k_proj": key, "v_proj": key, "o_proj": query}
    attention = sum(model.hidden + size for name, size in sizes.items() if name in adapter.targets)
    names = ("gate_proj", "up_proj", "down_proj") if model.gated_ffn else ("up_proj", "down_proj")
    ffn = sum(model.hidden + model.ffn for name in names if name in adapter.targets)
    dense = model.layers - model.expert_layers
    return float(adapter.rank * (model.layers * attention + dense * ffn))
