"""The model's parameters under the names of Hugging Face's Llama family.

Query, key and value are one matrix here and three there, gate and up one and two; rows follow each other in this order.
"""

from __future__ import annotations

import re

__all__ = ["MERGED", "adapter_name", "published_names"]

# a product of the model: what it is made of there
MERGED = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "ffn.down": ("mlp.down_proj",),
}
_NORMS = {
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
}
_OUTSIDE = {"embedding": "model.embed_tokens.weight", "head.norm.weight": "model.norm.weight"}


def published_names(parameter: str) -> tuple[str, ...]:
    """Return the tensors that a parameter of the model is made of, one below the other."""
    if parameter in _OUTSIDE:
        return (_OUTSIDE[parameter],)
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", parameter)
    if found is None:
        return ("lm_head.weight",)  # "head.weight", the one that is left
    layer, part, kind = found.groups()
    parts = (_NORMS[part],) if part in _NORMS else MERGED[part]
    return tuple(f"model.layers.{layer}.{name}.{kind}" for name in parts)


def adapter_name(parameter: str) -> str:
    """Return the name that PEFT gives to one matrix of an adapter: ``blocks.0.attention.qkv.adapters.q_proj.down``."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)\.adapters\.(\w+)\.(down|up)", parameter)
    if found is None:
        raise ValueError(f"{parameter} is not a matrix of an adapter")
    layer, part, target, matrix = found.groups()
    product = next(name for name in MERGED[part] if name.endswith(f".{target}"))
    return f"base_model.model.model.layers.{layer}.{product}.lora_{'A' if matrix == 'down' else 'B'}.weight"
