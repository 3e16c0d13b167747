"""Decoders with experts, and with latent attention."""

from __future__ import annotations

from typing import Any

from mofang.catalog.huggingface.config import Config
from mofang.catalog.huggingface.decoders import Reader, llama_like
from mofang.domain.model import Attention, MixtureOfExperts, ModelArchitecture, MultiHeadLatent

__all__ = ["EXPERTS"]


def _experts(config: Config, **sizes: Any) -> MixtureOfExperts:
    """Return the expert sizes under the keys of Mixtral; ``sizes`` are what the family sets differently."""
    read: dict[str, Any] = {
        name: config.count(*keys)
        for name, keys in (
            ("num_experts", ("num_local_experts", "num_experts")),
            ("top_k", ("num_experts_per_tok",)),
            ("expert_ffn", ("moe_intermediate_size", "intermediate_size")),
        )
        if name not in sizes
    }
    return MixtureOfExperts(**read, **sizes)


def _mixtral(config: Config) -> ModelArchitecture:
    return llama_like(config, moe=_experts(config))


def _olmoe(config: Config) -> ModelArchitecture:
    return llama_like(config, qk_norm=True, qk_norm_wide=True, moe=_experts(config))


def _phimoe(config: Config) -> ModelArchitecture:
    bias = config.flag("attention_bias", default=False)
    return llama_like(
        config,
        attention_bias=bias,
        output_bias=bias,
        norm_bias=True,
        lm_head_bias=config.flag("lm_head_bias", default=False),
        moe=_experts(config),
    )


def _qwen2_moe(config: Config) -> ModelArchitecture:
    shared = config.count("shared_expert_intermediate_size")
    moe = _experts(config, num_shared=1, shared_ffn=shared, shared_gate=True, **_sparse_layers(config))
    return llama_like(config, attention_bias=config.flag("qkv_bias", default=True), moe=moe)


def _qwen3_moe(config: Config) -> ModelArchitecture:
    bias = config.flag("attention_bias", default=False)
    moe = _experts(config, **_sparse_layers(config))
    return llama_like(config, attention_bias=bias, output_bias=bias, qk_norm=True, moe=moe)


def _sparse_layers(config: Config) -> dict[str, int]:
    dense = config.values.get("mlp_only_layers") or []
    if not isinstance(dense, list) or dense != list(range(len(dense))):
        raise config.error("mlp_only_layers", "names other layers than the first ones, which is not understood")
    return {"dense_layers": len(dense), "every": config.count("decoder_sparse_step", default=1)}


def _gpt_oss(config: Config) -> ModelArchitecture:
    bias = config.flag("attention_bias", default=True)
    return llama_like(
        config,
        attention_bias=bias,
        output_bias=bias,
        ffn_bias=True,
        attention_sinks=True,
        moe=_experts(config, router_bias=True),
    )


def _llama4(config: Config) -> ModelArchitecture:
    expert = config.count("intermediate_size")
    every = config.count("interleave_moe_layer_step", default=1)
    moe = _experts(config, expert_ffn=expert, num_shared=1, shared_ffn=expert, every=every)
    return llama_like(config, ffn=config.count("intermediate_size_mlp"), moe=moe)


def _deepseek_v2(config: Config) -> ModelArchitecture:
    return _deepseek(config, router_bias=False)


def _deepseek_v3(config: Config) -> ModelArchitecture:
    return _deepseek(config, router_bias=True)  # e_score_correction_bias (arXiv:2412.19437, section 2.1.2)


def _deepseek(config: Config, *, router_bias: bool) -> ModelArchitecture:
    """Multi-head latent attention and fine-grained experts; the multi-token-prediction layers are left out."""
    config.require("attention_bias", expected=False)
    latent = MultiHeadLatent(
        kv_lora_rank=config.count("kv_lora_rank"),
        q_lora_rank=config.count("q_lora_rank") if config.has("q_lora_rank") else None,
        qk_nope_head_dim=config.count("qk_nope_head_dim"),
        qk_rope_head_dim=config.count("qk_rope_head_dim"),
        v_head_dim=config.count("v_head_dim"),
    )
    return llama_like(
        config,
        kv_heads=config.count("num_attention_heads"),
        head_dim=latent.qk_nope_head_dim + latent.qk_rope_head_dim,
        attention=Attention.LATENT,
        latent=latent,
        moe=_fine_grained(config, router_bias=router_bias) if config.has("n_routed_experts") else None,
    )


def _fine_grained(config: Config, *, router_bias: bool) -> MixtureOfExperts:
    config.require("moe_layer_freq", expected=1)
    expert, shared = config.count("moe_intermediate_size"), config.count("n_shared_experts", default=0)
    return _experts(
        config,
        num_experts=config.count("n_routed_experts"),
        expert_ffn=expert,
        num_shared=shared,
        shared_ffn=shared * expert,
        dense_layers=config.count("first_k_dense_replace", default=0),
        router_bias=router_bias,
    )


def _dbrx(config: Config) -> ModelArchitecture:
    attention, ffn = config.part("attn_config"), config.part("ffn_config")
    hidden, heads = config.count("d_model"), config.count("n_heads")
    expert = ffn.count("ffn_hidden_size")
    return ModelArchitecture(
        name=config.name,
        layers=config.count("n_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=attention.count("kv_n_heads"),
        head_dim=hidden // max(heads, 1),
        ffn=expert,
        vocab=config.count("vocab_size"),
        max_sequence=config.count("max_seq_len"),
        tied_embeddings=config.flag("tie_word_embeddings", default=False),
        moe=MixtureOfExperts(num_experts=ffn.count("moe_num_experts"), top_k=ffn.count("moe_top_k"), expert_ffn=expert),
        source=str(config.file),
    )


EXPERTS: dict[str, Reader] = {
    "mixtral": _mixtral,
    "olmoe": _olmoe,
    "phimoe": _phimoe,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
    "gpt_oss": _gpt_oss,
    "llama4_text": _llama4,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
    "kimi_k2": _deepseek_v3,
    "dbrx": _dbrx,
}
