"""Exact sizes of a served model: bytes of its weights on a device, bytes of cache that one token keeps."""

from __future__ import annotations

from dataclasses import dataclass

from mofang.domain.hardware import Precision
from mofang.domain.model import ModelArchitecture

__all__ = ["ServedModel", "kv_bytes_per_token", "served_model"]

_NARROW = {Precision.FP4}  # formats that checkpoints use for the experts of a mixture alone


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """Parameters by how they are cut and stored (all layers together), and the sizes that passes compute with.

    ``linear`` are the products every rank shares (attention projections, dense feed-forward, shared experts),
    ``routed`` the experts, ``tables`` embedding and head, which stay in 16 bits.
    """

    architecture: ModelArchitecture
    attention: float
    dense_ffn: float
    routed: float
    tables: float

    @property
    def linear(self) -> float:
        """Parameters outside the routed experts and the tables."""
        return self.attention + self.dense_ffn


def served_model(model: ModelArchitecture) -> ServedModel:
    """Return the model's parameters by part; together they are ``model.params``."""
    moe = model.moe
    routed = 0.0
    if moe is not None:
        routed = float(model.expert_layers * moe.num_experts * model.ffn_params(moe.expert_ffn))
    attention = float(model.layers * model.attention_params)
    tables = float(model.embedding_params)
    return ServedModel(
        architecture=model,
        attention=attention,
        dense_ffn=float(model.params) - attention - routed - tables,
        routed=routed,
        tables=tables,
    )


def kv_bytes_per_token(model: ModelArchitecture, precision: Precision) -> float:
    """Return the bytes of cache that one token keeps in all layers together.

    Grouped-query attention keeps keys and values of every key-value head; latent attention keeps one compressed vector
    and the rotary part of the key (DeepSeek-V2, arXiv:2405.04434, section 2.1.2).
    """
    if model.latent is not None:
        width = model.latent.kv_lora_rank + model.latent.qk_rope_head_dim
    else:
        width = 2 * model.kv_heads * model.head_dim
    return float(model.layers * width) * precision.bytes


def linear_precision(model: ModelArchitecture, precision: Precision) -> Precision:
    """Return the format of what is not a routed expert: 4-bit checkpoints of mixtures narrow the experts alone."""
    return Precision.BF16 if model.moe is not None and precision in _NARROW else precision
