"""The built-in recipe of GPT pre-training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mofang.domain.plan import Plan
from mofang.domain.recipe import GptConfig
from mofang.domain.scenario import Pretrain
from mofang.launchers.program import Program
from mofang.launchers.recipe import device_kind, recipe_program
from mofang.launchers.schedule import checkpoint_interval, steps_of

__all__ = ["gpt_program"]


def gpt_program(task: Pretrain, plan: Plan, attempt_dir: Path) -> Program:
    """Return the recipe's command line, its threads and its ``recipe.json``.

    Raises:
        SpecError: the plan asks for what the recipe cannot do.
    """
    config = GptConfig(
        task=replace(task, checkpoint_every_steps=checkpoint_interval(task, plan)),
        strategy=plan.strategy,
        steps=steps_of(plan),
        peak_flops=plan.estimate.peak_flops if plan.estimate else 0.0,
        device=device_kind(plan),
    )
    return recipe_program("gpt", config, plan, attempt_dir)
