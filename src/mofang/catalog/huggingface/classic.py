"""The older families, each with key names of its own: GPT-2, GPT-Neo, GPT-J, GPT-NeoX, OPT, BLOOM, Falcon, MPT."""

from __future__ import annotations

from typing import Any

from mofang.catalog.huggingface.config import Config
from mofang.catalog.huggingface.decoders import Reader, llama_like
from mofang.domain.model import ModelArchitecture

__all__ = ["CLASSIC"]

_BIASES = {"attention_bias": True, "output_bias": True, "ffn_bias": True, "norm_bias": True}


def _multi_head(config: Config, *, tied: bool, hidden: int, heads: int, **fields: Any) -> ModelArchitecture:
    """Return an architecture with a plain feed-forward block; every head has keys and values unless said otherwise."""
    return ModelArchitecture(
        **{
            "name": config.name,
            "hidden": hidden,
            "heads": heads,
            "kv_heads": heads,
            "head_dim": hidden // max(heads, 1),
            "ffn": 4 * hidden,
            "vocab": config.count("vocab_size"),
            "gated_ffn": False,
            "norm_bias": True,
            "tied_embeddings": config.flag("tie_word_embeddings", default=tied),
            "source": str(config.file),
            **fields,
        }
    )


def _gpt2(config: Config) -> ModelArchitecture:
    hidden = config.count("n_embd")
    return _multi_head(
        config,
        tied=True,
        hidden=hidden,
        heads=config.count("n_head"),
        layers=config.count("n_layer"),
        ffn=config.count("n_inner", default=4 * hidden),
        max_sequence=config.count("n_positions"),
        learned_positions=True,
        **_BIASES,
    )


def _gptj(config: Config) -> ModelArchitecture:
    hidden = config.count("n_embd")
    return _multi_head(
        config,
        tied=False,
        hidden=hidden,
        heads=config.count("n_head"),
        layers=config.count("n_layer"),
        ffn=config.count("n_inner", default=4 * hidden),
        max_sequence=config.count("n_positions"),
        ffn_bias=True,
        lm_head_bias=True,
        norms_per_layer=1,
    )


def _gpt_neo(config: Config) -> ModelArchitecture:
    hidden = config.count("hidden_size")
    return _multi_head(
        config,
        tied=True,
        hidden=hidden,
        heads=config.count("num_heads"),
        layers=config.count("num_layers"),
        ffn=config.count("intermediate_size", default=4 * hidden),
        max_sequence=config.count("max_position_embeddings"),
        learned_positions=True,
        output_bias=True,
        ffn_bias=True,
    )


def _gpt_neox(config: Config) -> ModelArchitecture:
    bias = config.flag("attention_bias", default=True)
    return llama_like(config, gated_ffn=False, attention_bias=bias, output_bias=bias, ffn_bias=True, norm_bias=True)


def _opt(config: Config) -> ModelArchitecture:
    hidden = config.count("hidden_size")
    config.require("word_embed_proj_dim", expected=hidden)
    bias = config.flag("enable_bias", default=True)
    return _multi_head(
        config,
        tied=True,
        hidden=hidden,
        heads=config.count("num_attention_heads"),
        layers=config.count("num_hidden_layers"),
        ffn=config.count("ffn_dim"),
        max_sequence=config.count("max_position_embeddings"),
        learned_positions=True,
        extra_positions=2,
        attention_bias=bias,
        output_bias=bias,
        ffn_bias=bias,
        final_norm=config.flag("do_layer_norm_before", default=True),
    )


def _bloom(config: Config) -> ModelArchitecture:
    return _multi_head(
        config,
        tied=True,
        hidden=config.count("hidden_size", "n_embed"),
        heads=config.count("n_head", "num_attention_heads"),
        layers=config.count("n_layer", "num_hidden_layers"),
        max_sequence=config.count("seq_length", default=2048),
        embedding_norm=True,
        **_BIASES,
    )


def _falcon(config: Config) -> ModelArchitecture:
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads", "n_head")
    bias = config.flag("bias", default=False)
    return _multi_head(
        config,
        tied=True,
        hidden=hidden,
        heads=heads,
        kv_heads=_falcon_kv_heads(config, heads),
        layers=config.count("num_hidden_layers", "n_layer"),
        ffn=config.count("ffn_hidden_size", default=4 * hidden),
        max_sequence=config.count("max_position_embeddings", default=2048),
        attention_bias=bias,
        output_bias=bias,
        ffn_bias=bias,
        norms_per_layer=_falcon_norms(config),
    )


def _falcon_kv_heads(config: Config, heads: int) -> int:
    if config.flag("new_decoder_architecture", default=False):
        return config.count("num_kv_heads", "n_head_kv", default=heads)
    return 1 if config.flag("multi_query", default=True) else heads


def _falcon_norms(config: Config) -> int:
    if config.flag("new_decoder_architecture", default=False):
        return config.count("num_ln_in_parallel_attn", default=2)
    return 1 if config.flag("parallel_attn", default=True) else 2


def _mpt(config: Config) -> ModelArchitecture:
    hidden, bias = config.count("d_model"), not config.flag("no_bias", default=True)
    attention = config.part("attn_config") if config.has("attn_config") else config
    config.require("expansion_ratio", expected=4)
    return _multi_head(
        config,
        tied=True,
        hidden=hidden,
        heads=config.count("n_heads"),
        layers=config.count("n_layers"),
        max_sequence=config.count("max_seq_len"),
        learned_positions=not attention.flag("alibi", default=False),
        attention_bias=bias,
        output_bias=bias,
        ffn_bias=bias,
        norm_bias=bias,
    )


CLASSIC: dict[str, Reader] = {
    "gpt2": _gpt2,
    "gptj": _gptj,
    "gpt_neo": _gpt_neo,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "bloom": _bloom,
    "falcon": _falcon,
    "mpt": _mpt,
}
