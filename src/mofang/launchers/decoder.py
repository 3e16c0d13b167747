"""A plan in the words that Megatron-LM and its descendants share: meaning -> value, spelled by a flag table."""

from __future__ import annotations

from typing import Any

from mofang.domain.hardware import Precision
from mofang.domain.model import Attention, ModelArchitecture
from mofang.domain.plan import Plan
from mofang.domain.scenario import Finetune, Pretrain
from mofang.domain.strategy import Offload, Recompute, Sharding, Strategy
from mofang.errors import SpecError
from mofang.launchers.schedule import steps_of

__all__ = ["batch_values", "data_path", "layout_values", "model_values", "schedule_values"]


def model_values(model: ModelArchitecture) -> dict[str, Any]:
    """Return the sizes of the model."""
    dense = model.ffn or (model.moe.expert_ffn if model.moe else 0)
    values: dict[str, Any] = {
        "layers": model.layers,
        "hidden": model.hidden,
        "ffn": dense,
        "heads": model.heads,
        "grouped_query": model.kv_heads != model.heads,
        "kv_heads": model.kv_heads if model.kv_heads != model.heads else None,
        "head_dim": model.head_dim,
        "max_sequence": model.max_sequence,
        "positions": "learned_absolute" if model.learned_positions else "rope",
        "normalization": "LayerNorm" if model.norm_bias else "RMSNorm",
        "gated_ffn": model.gated_ffn,
        "no_bias": not model.ffn_bias,
        "qkv_bias": model.attention_bias and not model.ffn_bias,
        "qk_norm": model.qk_norm,
        "untied": not model.tied_embeddings,
    }
    return values | _latent_values(model) | _expert_values(model)


def _latent_values(model: ModelArchitecture) -> dict[str, Any]:
    if model.attention is not Attention.LATENT or model.latent is None:
        return {}
    sizes = model.latent
    return {
        "latent_attention": True,
        "q_lora_rank": sizes.q_lora_rank,
        "kv_lora_rank": sizes.kv_lora_rank,
        "qk_head_dim": sizes.qk_nope_head_dim,
        "qk_rope_dim": sizes.qk_rope_head_dim,
        "v_head_dim": sizes.v_head_dim,
    }


def _expert_values(model: ModelArchitecture) -> dict[str, Any]:
    moe = model.moe
    if moe is None:
        return {}
    # One digit a layer: 1 where it has experts.
    pattern = "([" + ",".join(str(int(model.has_experts(index))) for index in range(model.layers)) + "])"
    return {
        "experts": moe.num_experts,
        "experts_per_token": moe.top_k,
        "expert_ffn": moe.expert_ffn,
        "shared_ffn": moe.shared_ffn or None,
        "expert_layers": None if model.expert_layers == model.layers else pattern,
        "grouped_gemm": True,
        "dispatcher": "alltoall",
    }


def layout_values(strategy: Strategy) -> dict[str, Any]:
    """Return how the job is cut, in which precision, and what is computed again.

    Raises:
        SpecError: the framework has no such precision or sharding.
    """
    cut = strategy.parallelism
    if strategy.sharding in {Sharding.ZERO2, Sharding.FSDP}:
        raise SpecError(f"sharding {strategy.sharding} is not among this framework's", hint="use ddp or zero1")
    sharded = strategy.sharding is Sharding.ZERO1
    return {
        "tp": cut.tp,
        "sequence_parallel": cut.tp > 1,
        "pp": cut.pp,
        "cp": cut.cp,
        "ep": cut.ep if cut.ep > 1 else None,
        "distributed_optimizer": sharded,
        "overlap_gradients": cut.dp * cut.cp > 1,
        "overlap_weights": sharded and cut.dp * cut.cp > 1,
        "offload_optimizer": strategy.offload is not Offload.NONE,
        **_precision_values(strategy.precision),
        **_recompute_values(strategy.recompute),
    }


def _precision_values(precision: Precision) -> dict[str, Any]:
    if precision is Precision.FP16:
        return {"fp16": True}
    low: dict[Precision, dict[str, Any]] = {
        Precision.BF16: {},
        Precision.FP8: {"fp8": "hybrid"},
        Precision.FP4: {"fp4": "e2m1"},
    }
    if precision not in low:
        raise SpecError(f"this framework does not train in {precision}", hint="use bf16, fp16, fp8 or fp4")
    return {"bf16": True, **low[precision]}


def _recompute_values(recompute: Recompute) -> dict[str, Any]:
    if recompute is Recompute.NONE:
        return {}
    if recompute is Recompute.SELECTIVE:
        return {"recompute": "selective"}
    return {"recompute": "full", "recompute_method": "uniform", "recompute_layers": 1}


def batch_values(task: Pretrain | Finetune, strategy: Strategy) -> dict[str, Any]:
    """Return the batches and the sequence length."""
    return {
        "sequence": task.sequence,
        "micro_batch": strategy.micro_batch,
        "global_batch": task.global_batch,
    }


def schedule_values(task: Pretrain | Finetune, plan: Plan) -> dict[str, Any]:
    """Return the optimiser's settings and how long to train."""
    rates = task.optimisation
    return {
        "steps": steps_of(plan),
        "lr": rates.lr,
        "min_lr": rates.lr * rates.min_lr_ratio,
        "lr_decay": "cosine",
        "warmup": rates.warmup_steps,
        "weight_decay": rates.weight_decay,
        "beta1": rates.beta1,
        "beta2": rates.beta2,
        "clip": rates.clip_norm,
        "seed": task.seed,
    }


def data_path(task: Pretrain | Finetune, framework: str) -> str:
    """Return the one path of the training data.

    Raises:
        SpecError: there are several, or it is Python's own source, which only Mofang's recipes read.
    """
    paths = task.data.paths
    if len(paths) != 1 or not paths[0].startswith("/"):
        raise SpecError(f"{framework} reads one file or folder of text, not {', '.join(paths)}", hint="name one path")
    return paths[0]
