"""Decoders in the manner of Llama: RMSNorm or LayerNorm, rotary positions, grouped queries, a dense feed-forward.

Each reader states only how its family differs; defaults are those of the family's configuration class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mofang.catalog.huggingface.config import Config
from mofang.domain.model import ModelArchitecture

__all__ = ["DECODERS", "Reader", "llama_like"]

Reader = Callable[[Config], ModelArchitecture]


def llama_like(config: Config, *, tied: bool = False, **differences: Any) -> ModelArchitecture:
    """Return the architecture under the keys that Llama and its descendants share.

    Args:
        config: the file.
        tied: whether the family ties its embeddings where ``tie_word_embeddings`` does not say.
        differences: fields of ``ModelArchitecture`` that the family sets differently.
    """
    heads, hidden = config.count("num_attention_heads"), config.count("hidden_size")
    fields: dict[str, Any] = {
        "name": config.name,
        "hidden": hidden,
        "heads": heads,
        "tied_embeddings": config.flag("tie_word_embeddings", default=tied),
        "source": str(config.file),
    }
    defaults = {"kv_heads": heads, "head_dim": hidden // max(heads, 1)}
    for field, key in _SIZES.items():
        if field not in differences:
            fields[field] = config.count(key, default=defaults.get(field))
    return ModelArchitecture(**(fields | differences))


_SIZES = {
    "layers": "num_hidden_layers",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
    "max_sequence": "max_position_embeddings",
}


def _llama(config: Config) -> ModelArchitecture:
    bias = config.flag("attention_bias", default=False)
    ffn_bias = config.flag("mlp_bias", default=False)
    return llama_like(config, attention_bias=bias, output_bias=bias, ffn_bias=ffn_bias)


def _qwen2(config: Config) -> ModelArchitecture:
    return llama_like(config, attention_bias=True)


def _qwen3(config: Config) -> ModelArchitecture:
    bias = config.flag("attention_bias", default=False)
    return llama_like(config, attention_bias=bias, output_bias=bias, qk_norm=True)


def _internlm2(config: Config) -> ModelArchitecture:
    bias = config.flag("bias", default=False)
    return llama_like(config, attention_bias=bias, output_bias=bias)


def _minicpm(config: Config) -> ModelArchitecture:
    return llama_like(config, tied=True)


def _gemma(config: Config) -> ModelArchitecture:
    return llama_like(config, tied=True)


def _gemma2(config: Config) -> ModelArchitecture:
    return llama_like(config, tied=True, norms_per_layer=4)


def _gemma3(config: Config) -> ModelArchitecture:
    """Published files leave out what equals the defaults of ``Gemma3TextConfig``."""
    defaults = {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
    }
    given = {key: value for key, value in config.values.items() if value is not None}
    filled = Config(file=config.file, name=config.name, values=defaults | given, prefix=config.prefix)
    return llama_like(filled, tied=True, norms_per_layer=4, qk_norm=True)


def _glm(config: Config) -> ModelArchitecture:
    return llama_like(config, attention_bias=config.flag("attention_bias", default=False))


def _glm4(config: Config) -> ModelArchitecture:
    return llama_like(config, attention_bias=config.flag("attention_bias", default=False), norms_per_layer=4)


def _phi(config: Config) -> ModelArchitecture:
    config.require("qk_layernorm", expected=False)
    bias = {"attention_bias": True, "output_bias": True, "ffn_bias": True, "norm_bias": True, "lm_head_bias": True}
    return llama_like(config, gated_ffn=False, norms_per_layer=1, **bias)


def _stablelm(config: Config) -> ModelArchitecture:
    wide = config.flag("qk_layernorm", default=False)
    return llama_like(
        config,
        attention_bias=config.flag("use_qkv_bias", default=False),
        norm_bias=True,
        norms_per_layer=1 if config.flag("use_parallel_residual", default=False) else 2,
        qk_norm=wide,
        qk_norm_wide=wide,
    )


def _olmo(config: Config) -> ModelArchitecture:
    return llama_like(config, norms_per_layer=0, final_norm=False)  # its LayerNorm has no parameters


def _olmo2(config: Config) -> ModelArchitecture:
    return llama_like(config, qk_norm=True, qk_norm_wide=True)


def _cohere(config: Config) -> ModelArchitecture:
    wide = config.flag("use_qk_norm", default=False)
    return llama_like(config, tied=True, norms_per_layer=1, qk_norm=wide, qk_norm_wide=wide)


def _starcoder2(config: Config) -> ModelArchitecture:
    bias = config.flag("use_bias", default=True)
    biases = {"attention_bias": bias, "output_bias": bias, "ffn_bias": bias}
    return llama_like(config, tied=True, gated_ffn=False, norm_bias=True, **biases)


def _nemotron(config: Config) -> ModelArchitecture:
    bias = config.flag("attention_bias", default=False)
    ffn_bias = config.flag("mlp_bias", default=False)
    return llama_like(config, gated_ffn=False, norm_bias=True, attention_bias=bias, output_bias=bias, ffn_bias=ffn_bias)


def _baichuan(config: Config) -> ModelArchitecture:
    return llama_like(config, max_sequence=config.count("max_position_embeddings", "model_max_length"))


def _chatglm(config: Config) -> ModelArchitecture:
    heads = config.count("num_attention_heads")
    grouped = config.flag("multi_query_attention", default=False)
    bias = config.flag("add_bias_linear", default=False)
    config.require("rmsnorm", expected=True)
    return ModelArchitecture(
        name=config.name,
        layers=config.count("num_layers"),
        hidden=config.count("hidden_size"),
        heads=heads,
        kv_heads=config.count("multi_query_group_num") if grouped else heads,
        head_dim=config.count("kv_channels"),
        ffn=config.count("ffn_hidden_size"),
        vocab=config.count("padded_vocab_size", "vocab_size"),
        max_sequence=config.count("seq_length"),
        tied_embeddings=config.flag("tie_word_embeddings", default=False),
        attention_bias=bias or config.flag("add_qkv_bias", default=False),
        output_bias=bias,
        ffn_bias=bias,
        source=str(config.file),
    )


DECODERS: dict[str, Reader] = {
    "llama": _llama,
    "mistral": llama_like,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "internlm2": _internlm2,
    "minicpm": _minicpm,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "glm": _glm,
    "glm4": _glm4,
    "granite": _llama,
    "phi": _phi,
    "phi3": llama_like,
    "stablelm": _stablelm,
    "olmo": _olmo,
    "olmo2": _olmo2,
    "cohere": _cohere,
    "starcoder2": _starcoder2,
    "nemotron": _nemotron,
    "baichuan": _baichuan,
    "chatglm": _chatglm,
}
