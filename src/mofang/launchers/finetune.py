"""The built-in recipe of fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mofang.domain.plan import Plan
from mofang.domain.recipe import FinetuneConfig
from mofang.domain.scenario import Finetune, Optimisation
from mofang.domain.strategy import Method
from mofang.launchers.program import Program
from mofang.launchers.recipe import device_kind, recipe_program
from mofang.launchers.schedule import checkpoint_interval, steps_of

__all__ = ["finetune_program"]

_FULL_RATE = 0.1  # of that of adapters: LoRA learns best at about ten times the rate of full fine-tuning


def finetune_program(task: Finetune, plan: Plan, attempt_dir: Path) -> Program:
    """Return the recipe's command line, its threads and its ``recipe.json``; the result goes into the job's ``output``.

    Raises:
        SpecError: the plan asks for what the recipe cannot do, or the job has no weights or no text.
    """
    estimate = plan.estimate
    config = FinetuneConfig(
        task=replace(
            task,
            checkpoint_every_steps=checkpoint_interval(task, plan),
            optimisation=_optimisation(task, plan.strategy.method),
        ),
        strategy=plan.strategy,
        steps=steps_of(plan),
        output=str(attempt_dir.parent / "output"),
        peak_flops=estimate.peak_flops if estimate else 0.0,
        step_flops=estimate.mfu * estimate.peak_flops * estimate.step_time_s if estimate else 0.0,
        device=device_kind(plan),
    )
    return recipe_program("finetune", config, plan, attempt_dir)


def _optimisation(task: Finetune, method: Method) -> Optimisation:
    """Return the settings for the method: a rate that was given for any of them is that of adapters."""
    if task.method is None and method is Method.FULL:
        return replace(task.optimisation, lr=task.optimisation.lr * _FULL_RATE)
    return task.optimisation
