"""The built-in recipe of GPT pre-training."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from mofang.domain.codec import encode
from mofang.domain.hardware import CPU
from mofang.domain.plan import Plan
from mofang.domain.recipe import DeviceKind, GptConfig
from mofang.domain.scenario import Finetune, Pretrain
from mofang.errors import SpecError
from mofang.launchers.program import Program

__all__ = ["checkpoint_interval", "gpt_program"]

_UNKNOWN_INTERVAL = 50  # steps between checkpoints where no step time is predicted


def gpt_program(task: Pretrain, plan: Plan, attempt_dir: Path) -> Program:
    """Return the recipe's command line, its threads and its ``recipe.json``.

    Raises:
        SpecError: the plan asks for what the recipe cannot do.
    """
    if plan.steps is None:
        raise SpecError("a plan for pre-training must say how many steps to take")
    on_cores = plan.placement.accelerator == CPU
    config = GptConfig(
        task=replace(task, checkpoint_every_steps=checkpoint_interval(task, plan)),
        strategy=plan.strategy,
        steps=plan.steps,
        peak_flops=plan.estimate.peak_flops if plan.estimate else 0.0,
        device=DeviceKind.CPU if on_cores else DeviceKind.CUDA,
    )
    threads = str(plan.strategy.threads)
    env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if not on_cores:
        env["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"  # less fragmentation: larger batches fit
    return Program(
        argv=(sys.executable, "-m", "mofang.recipes.gpt", "--config", str(attempt_dir / "recipe.json")),
        env=env,
        files={"recipe.json": encode(config)},
    )


def checkpoint_interval(task: Pretrain | Finetune, plan: Plan) -> int:
    """Return the steps between checkpoints: as asked, or those that take ``checkpoint_every_s`` by the prediction."""
    if task.checkpoint_every_steps is not None:
        return task.checkpoint_every_steps
    if plan.estimate is None or plan.estimate.step_time_s <= 0:
        return _UNKNOWN_INTERVAL
    return max(1, round(task.checkpoint_every_s / plan.estimate.step_time_s))
