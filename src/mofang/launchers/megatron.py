"""Megatron-LM's ``pretrain_gpt.py``: one process a device, torchrun's variables from the agent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mofang.domain.plan import Plan
from mofang.domain.scenario import Pretrain
from mofang.domain.strategy import Parallelism
from mofang.errors import SpecError
from mofang.launchers.decoder import (
    batch_values,
    data_path,
    layout_values,
    model_values,
    schedule_values,
)
from mofang.launchers.flagtable import FlagTable, flag_table
from mofang.launchers.program import Program
from mofang.launchers.schedule import checkpoint_interval

__all__ = ["megatron_program", "prepared_data", "run_values"]


def megatron_program(task: Pretrain, plan: Plan, attempt_dir: Path, folder: str) -> Program:
    """Return the command line.

    Args:
        task: what is trained; its text is prepared with ``Program.prepare`` once.
        plan: the layout.
        attempt_dir: the attempt's directory; checkpoints lie beside it.
        folder: where Megatron-LM's sources are.

    Raises:
        SpecError: the plan asks for what this version cannot do.
    """
    table = flag_table("megatron")
    cut = plan.strategy.parallelism
    values: dict[str, Any] = {
        **model_values(task.model),
        **layout_values(plan.strategy),
        "vpp": cut.vpp if cut.vpp > 1 else None,
        **_split_values(task.model.layers, cut),
        "expert_tp": 1 if cut.ep > 1 else None,
        "precision_aware": plan.strategy.offload.value != "none",
        **batch_values(task, plan.strategy),
        **schedule_values(task, plan),
        **run_values(task, plan, attempt_dir),
        "tokenizer_kind": "HuggingFaceTokenizer",
        "tokenizer": str(Path(task.data.tokenizer).parent),
        "attention": "flash",
    }
    return Program(
        argv=(sys.executable, f"{folder}/{table.program[0]}", *table.words(values)),
        env={"CUDA_DEVICE_MAX_CONNECTIONS": "1"},  # keeps the order of kernels that overlapping relies on
        prepare=(prepared_data(task, table, attempt_dir, folder),),
    )


def _split_values(layers: int, cut: Parallelism) -> dict[str, Any]:
    """Return how layers that do not divide evenly over the stages are spread.

    The embedding and the loss may each stand for a layer; without interleaving the first and the last stage may differ.
    """
    chunks = cut.pp * cut.vpp
    for extra, values in ((0, {}), (2, {"embedding_as_layer": True, "loss_as_layer": True})):
        if (layers + extra) % chunks == 0:
            return values
    if cut.vpp > 1:
        raise SpecError(
            f"{layers} layers cannot be interleaved over {cut.pp} stages of {cut.vpp} chunks",
            hint=f"choose pp x vpp that divides {layers} or {layers + 2}",
        )
    middle = -(-layers // cut.pp)
    rest = layers - middle * (cut.pp - 2)
    if rest < 2:
        raise SpecError(f"{layers} layers leave stages of {cut.pp} empty", hint="choose fewer stages")
    return {"first_stage_layers": rest - rest // 2, "last_stage_layers": rest // 2}


def run_values(task: Pretrain, plan: Plan, attempt_dir: Path) -> dict[str, Any]:
    """Return where data and checkpoints are, and how often what is written."""
    checkpoints = str(attempt_dir.parent / "checkpoints")
    held = round(100 * task.data.validation_fraction)
    return {
        "data": f"{_prefix(attempt_dir)}_text_document",
        "split": f"{100 - held},{held},0",
        "save": checkpoints,
        "load": checkpoints,
        "save_every": checkpoint_interval(task, plan),
        "log_every": task.log_every,
        "validate_every": task.validate_every,
        "validation_batches": task.validation_batches,
    }


def prepared_data(task: Pretrain, table: FlagTable, attempt_dir: Path, folder: str) -> tuple[str, ...]:
    """Return the command that turns JSON lines into the framework's indexed tokens.

    Raises:
        SpecError: the text is bytes, or no single file of JSON lines.
    """
    source = data_path(task, table.framework)
    if not source.endswith((".jsonl", ".json")) or task.data.tokenizer == "bytes":
        raise SpecError(
            f"{table.framework} reads JSON lines with a tokenizer.json, "
            f"not {Path(source).name} as {task.data.tokenizer}",
            hint='write {"text": ...} lines into a .jsonl file and name a tokenizer',
        )
    kind = "HuggingFaceTokenizer" if table.framework == "megatron" else "PretrainedFromHF"
    return (
        sys.executable,
        f"{folder}/{table.prepare[0]}",
        "--input",
        source,
        "--output-prefix",
        _prefix(attempt_dir),
        table.flags["tokenizer_kind"],
        kind,
        table.flags["tokenizer"],
        str(Path(task.data.tokenizer).parent),
        "--append-eod",
        "--workers",
        "8",
    )


def _prefix(attempt_dir: Path) -> str:
    return str(attempt_dir.parent / "data" / "tokens")
