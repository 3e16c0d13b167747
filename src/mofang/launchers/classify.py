"""The built-in recipe of image classification."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mofang.domain.plan import Plan
from mofang.domain.recipe import ClassifyConfig
from mofang.domain.scenario import Classify
from mofang.launchers.program import Program
from mofang.launchers.recipe import device_kind, recipe_program
from mofang.launchers.schedule import checkpoint_interval, steps_of

__all__ = ["classify_program"]


def classify_program(task: Classify, plan: Plan, attempt_dir: Path) -> Program:
    """Return the recipe's command line, its threads and its ``recipe.json``; the result goes into the job's ``output``.

    Raises:
        SpecError: the plan asks for what the recipe cannot do.
    """
    estimate = plan.estimate
    config = ClassifyConfig(
        task=replace(task, checkpoint_every_steps=checkpoint_interval(task, plan)),
        strategy=plan.strategy,
        steps=steps_of(plan),
        output=str(attempt_dir.parent / "output"),
        peak_flops=estimate.peak_flops if estimate else 0.0,
        step_flops=estimate.mfu * estimate.peak_flops * estimate.step_time_s if estimate else 0.0,
        device=device_kind(plan),
    )
    return recipe_program("classify", config, plan, attempt_dir)
