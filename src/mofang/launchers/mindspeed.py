"""MindSpeed-LLM (Megatron-LM on Ascend): pre-training, and fine-tuning in full, with LoRA or QLoRA."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mofang.domain.plan import Plan
from mofang.domain.scenario import Finetune, Pretrain
from mofang.domain.strategy import Method
from mofang.errors import SpecError
from mofang.launchers.decoder import batch_values, data_path, layout_values, model_values, schedule_values
from mofang.launchers.flagtable import flag_table
from mofang.launchers.megatron import prepared_data, run_values
from mofang.launchers.program import Program

__all__ = ["mindspeed_program"]

# What published adapters call a projection, and what Megatron-LM's modules are called.
_TARGETS = {
    "q_proj": "linear_qkv",
    "k_proj": "linear_qkv",
    "v_proj": "linear_qkv",
    "o_proj": "linear_proj",
    "gate_proj": "linear_fc1",
    "up_proj": "linear_fc1",
    "down_proj": "linear_fc2",
}


def mindspeed_program(task: Pretrain | Finetune, plan: Plan, attempt_dir: Path, folder: str) -> Program:
    """Return the command line; ``folder`` holds MindSpeed-LLM's sources.

    Raises:
        SpecError: the plan asks for what this version cannot do.
    """
    table = flag_table("mindspeed")
    cut = plan.strategy.parallelism
    if task.model.layers % (cut.pp * cut.vpp):
        raise SpecError(
            f"{task.model.layers} layers do not divide over {cut.pp} stages of {cut.vpp} chunks",
            hint="choose pp x vpp that divides the layers",
        )
    values: dict[str, Any] = {
        **model_values(task.model),
        **layout_values(plan.strategy),
        "vpp_layers": task.model.layers // (cut.pp * cut.vpp) if cut.vpp > 1 else None,
        "cp_algorithm": "megatron_cp_algo" if cut.cp > 1 else None,
        "fused_tp": cut.tp > 1,
        **batch_values(task, plan.strategy),
        **schedule_values(task, plan),
        "tokenizer_kind": "PretrainedFromHF",
        "tokenizer": str(Path(task.data.tokenizer).parent),
    }
    env = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    if isinstance(task, Pretrain):
        values |= run_values(task, plan, attempt_dir)
        prepare = (prepared_data(task, table, attempt_dir, folder),)
        return Program(argv=_argv(folder, table.program[0], table.words(values)), env=env, prepare=prepare)
    values |= _finetune_values(task, plan, attempt_dir)
    return Program(argv=_argv(folder, "posttrain_gpt.py", table.words(values)), env=env)


def _argv(folder: str, program: str, words: tuple[str, ...]) -> tuple[str, ...]:
    return (sys.executable, f"{folder}/{program}", *words)


def _finetune_values(task: Finetune, plan: Plan, attempt_dir: Path) -> dict[str, Any]:
    if task.model_path is None:
        raise SpecError(f"model {task.model.name} has no folder to start from", hint="name the folder of its weights")
    method = plan.strategy.method
    adapted = method in {Method.LORA, Method.QLORA}
    targets = tuple(dict.fromkeys(_TARGETS.get(name, name) for name in task.adapter.targets))
    return {
        "stage": "sft",
        "finetune": True,
        "instruction_data": True,
        "data": data_path(task, "mindspeed"),
        "load": task.model_path,
        "save": str(attempt_dir.parent / "checkpoints"),
        "log_every": task.log_every,
        "lora_rank": task.adapter.rank if adapted else None,
        "lora_alpha": round(task.adapter.alpha) if adapted else None,
        "lora_targets": targets if adapted else None,
        "qlora": method is Method.QLORA,
    }
