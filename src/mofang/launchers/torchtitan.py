"""torchtitan: FSDP2 with tensor, pipeline, context and expert parallelism, for the models that it builds itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mofang.domain.hardware import Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.plan import Plan
from mofang.domain.scenario import Pretrain
from mofang.domain.strategy import Recompute
from mofang.errors import SpecError
from mofang.launchers.decoder import data_path
from mofang.launchers.flagtable import flag_table
from mofang.launchers.program import Program
from mofang.launchers.schedule import checkpoint_interval, steps_of

__all__ = ["torchtitan_program"]

# (layers, hidden, ffn or experts' ffn) -> the model and flavour that torchtitan calls so.
_FLAVORS = {
    (32, 4096, 14336): ("llama3", "8B"),
    (80, 8192, 28672): ("llama3", "70B"),
    (126, 16384, 53248): ("llama3", "405B"),
    (28, 1024, 3072): ("qwen3", "0.6B"),
    (28, 2048, 6144): ("qwen3", "1.7B"),
    (36, 2560, 9728): ("qwen3", "4B"),
    (36, 4096, 12288): ("qwen3", "8B"),
    (40, 5120, 17408): ("qwen3", "14B"),
    (64, 5120, 25600): ("qwen3", "32B"),
    (48, 2048, 768): ("qwen3", "30B-A3B"),
    (94, 4096, 1536): ("qwen3", "235B-A22B"),
    (27, 2048, 1408): ("deepseek_v3", "16B"),
    (60, 5120, 1536): ("deepseek_v3", "236B"),
    (61, 7168, 2048): ("deepseek_v3", "671B"),
}


def torchtitan_program(task: Pretrain, plan: Plan, attempt_dir: Path) -> Program:
    """Return the command line.

    Raises:
        SpecError: torchtitan does not build this model, or not in this precision.
    """
    table = flag_table("torchtitan")
    strategy, cut, rates = plan.strategy, plan.strategy.parallelism, task.optimisation
    model, flavor = _flavor(task.model)
    values: dict[str, Any] = {
        "model": model,
        "flavor": flavor,
        "assets": str(Path(task.data.tokenizer).parent),
        "converters": _converters(strategy.precision),
        "replicate": 1,
        "shard": cut.dp,
        "tp": cut.tp,
        "pp": cut.pp,
        **_schedule(task, plan),
        "cp": cut.cp,
        "ep": cut.ep,
        "recompute": "none" if strategy.recompute is Recompute.NONE else strategy.recompute.value,
        "compile": strategy.compile,
        "micro_batch": strategy.micro_batch * (strategy.accumulation if cut.pp > 1 else 1),
        "global_batch": task.global_batch,
        "sequence": task.sequence,
        "steps": steps_of(plan),
        "dataset": "c4_test",  # its loader reads any folder of JSON lines
        "data": data_path(task, "torchtitan"),
        "seed": task.seed,
        "lr": rates.lr,
        "weight_decay": rates.weight_decay,
        "beta1": rates.beta1,
        "beta2": rates.beta2,
        "clip": rates.clip_norm,
        "warmup": rates.warmup_steps,
        "lr_decay": "cosine",
        "min_lr_ratio": rates.min_lr_ratio,
        "log_every": task.log_every,
        "folder": str(attempt_dir.parent),
        "checkpoint": True,
        "save_every": checkpoint_interval(task, plan),
        "keep": max(2, task.keep_checkpoints),
    }
    return Program(
        argv=(sys.executable, *table.program, *table.words(values)),
        env={"PYTORCH_ALLOC_CONF": "expandable_segments:True"},
    )


def _flavor(model: ModelArchitecture) -> tuple[str, str]:
    sizes = (model.layers, model.hidden, model.moe.expert_ffn if model.moe else model.ffn)
    if sizes not in _FLAVORS:
        known = ", ".join(f"{name} {flavor}" for name, flavor in _FLAVORS.values())
        raise SpecError(f"torchtitan does not build {model.name}", hint=f"it builds {known}")
    return _FLAVORS[sizes]


def _converters(precision: Precision) -> str | None:
    known = {Precision.BF16: None, Precision.FP8: "quantize.linear.float8"}
    if precision not in known:
        raise SpecError(f"torchtitan does not train in {precision}", hint="use bf16 or fp8")
    return known[precision]


def _schedule(task: Pretrain, plan: Plan) -> dict[str, Any]:
    cut = plan.strategy.parallelism
    if cut.pp == 1:
        return {}
    return {
        "pp_schedule": "Interleaved1F1B" if cut.vpp > 1 else "1F1B",
        "pp_micro_batch": plan.strategy.micro_batch,
        "pp_layers": -(-task.model.layers // (cut.pp * cut.vpp)),
    }
