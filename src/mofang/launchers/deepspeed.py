"""DeepSpeed under transformers' language-modelling script: ZeRO stages and offload as its JSON settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mofang.domain.hardware import CPU, Precision
from mofang.domain.plan import Plan
from mofang.domain.scenario import Finetune, Pretrain
from mofang.domain.strategy import Method, Offload, Recompute, Sharding, Strategy
from mofang.errors import SpecError
from mofang.launchers.decoder import data_path
from mofang.launchers.flagtable import flag_table
from mofang.launchers.program import Program
from mofang.launchers.schedule import checkpoint_interval, steps_of

__all__ = ["deepspeed_program", "deepspeed_settings"]

_SETTINGS = "deepspeed.json"
_DTYPES = {Precision.FP32: "float32", Precision.FP16: "float16"}
_STAGES = {Sharding.NONE: 0, Sharding.DDP: 0, Sharding.ZERO1: 1, Sharding.ZERO2: 2, Sharding.FSDP: 3}


def deepspeed_program(task: Pretrain | Finetune, plan: Plan, attempt_dir: Path, folder: str) -> Program:
    """Return the command line and, for the framework ``deepspeed``, its ``deepspeed.json``.

    Pre-training runs transformers' ``run_clm.py``, which ``folder`` holds; fine-tuning, in full or with adapters, runs
    TRL's script, with or without DeepSpeed.

    Raises:
        SpecError: the plan or the task asks for what the script cannot do.
    """
    strategy = plan.strategy
    shared = _shared(task, plan, attempt_dir)
    if isinstance(task, Finetune):
        table, program = flag_table("trl"), flag_table("trl").program
        values = _finetune(task, plan)
    else:
        table = flag_table("deepspeed")
        program = (f"{folder}/{table.program[0]}",)
        values = _pretrain(task)
    return Program(
        argv=(sys.executable, *program, *table.words({**shared, **values})),
        files={_SETTINGS: json.dumps(deepspeed_settings(strategy, task.optimisation.clip_norm), indent=2)}
        if _is_deepspeed(plan)
        else {},
    )


def _is_deepspeed(plan: Plan) -> bool:
    return plan.strategy.framework == "deepspeed"


def _pretrain(task: Pretrain) -> dict[str, Any]:
    tokenizer = str(Path(task.data.tokenizer).parent)
    return {
        "config": tokenizer,
        "tokenizer": tokenizer,
        "data": data_path(task, "deepspeed"),
        "validation_percent": max(1, round(100 * task.data.validation_fraction)),
        "sequence": task.sequence,
        "train": True,
    }


def _finetune(task: Finetune, plan: Plan) -> dict[str, Any]:
    if task.model_path is None:
        raise SpecError(f"model {task.model.name} has no folder to start from", hint="name the folder of its weights")
    strategy, method = plan.strategy, plan.strategy.method
    adapted = method is not Method.FULL
    return {
        "model": task.model_path,
        "dtype": _DTYPES.get(strategy.precision, "bfloat16"),
        "on_cores": plan.placement.accelerator == CPU,
        # TRL's own defaults are bf16 and activations computed again: what the plan leaves out must be said.
        "bf16": str(strategy.precision is Precision.BF16),
        "recompute": str(strategy.recompute is Recompute.FULL),
        "data": str(Path(data_path(task, "trl")).parent),  # it reads a folder of JSON lines
        "sequence": task.sequence,
        "packing": task.packing,
        "adapter": adapted,
        "lora_rank": task.adapter.rank if adapted else None,
        "lora_alpha": round(task.adapter.alpha) if adapted else None,
        "lora_dropout": task.adapter.dropout if adapted else None,
        "lora_targets": task.adapter.targets if adapted else None,
        "four_bits": method is Method.QLORA,
    }


def _shared(task: Pretrain | Finetune, plan: Plan, attempt_dir: Path) -> dict[str, Any]:
    strategy, rates = plan.strategy, task.optimisation
    return {
        "settings": str(attempt_dir / _SETTINGS) if _is_deepspeed(plan) else None,
        "folder": str(attempt_dir.parent / "checkpoints"),
        "micro_batch": strategy.micro_batch,
        "accumulation": strategy.accumulation,
        "steps": steps_of(plan),
        "lr": rates.lr,
        "lr_decay": "cosine",
        "warmup": rates.warmup_steps,
        "weight_decay": rates.weight_decay,
        "beta1": rates.beta1,
        "beta2": rates.beta2,
        "clip": rates.clip_norm,
        "bf16": strategy.precision is Precision.BF16,
        "fp16": strategy.precision is Precision.FP16,
        "recompute": strategy.recompute is Recompute.FULL,
        "compile": strategy.compile,
        "save_every": checkpoint_interval(task, plan),
        "keep": task.keep_checkpoints,
        "log_every": task.log_every,
        "seed": task.seed,
    }


def deepspeed_settings(strategy: Strategy, clip_norm: float) -> dict[str, Any]:
    """Return DeepSpeed's settings (its configuration JSON)."""
    zero: dict[str, Any] = {"stage": _STAGES[strategy.sharding], "overlap_comm": True, "contiguous_gradients": True}
    if strategy.offload is not Offload.NONE:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if strategy.offload is Offload.ALL:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_batch_size": strategy.global_batch,
        "train_micro_batch_size_per_gpu": strategy.micro_batch,
        "gradient_accumulation_steps": strategy.accumulation,
        "gradient_clipping": clip_norm,
        "bf16": {"enabled": strategy.precision is Precision.BF16},
        "fp16": {"enabled": strategy.precision is Precision.FP16},
        "zero_optimization": zero,
    }
