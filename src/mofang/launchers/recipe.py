"""How all built-in recipes are started."""

from __future__ import annotations

import sys
from pathlib import Path

from mofang.domain.codec import encode
from mofang.domain.hardware import CPU
from mofang.domain.plan import Plan
from mofang.domain.recipe import DeviceKind
from mofang.launchers.program import Program

__all__ = ["device_kind", "recipe_program"]


def recipe_program(name: str, config: object, plan: Plan, attempt_dir: Path) -> Program:
    """Return the command line of a recipe, its threads and its ``recipe.json``.

    Args:
        name: of the package inside ``mofang.recipes``.
        config: what the recipe reads.
        plan: the plan that it follows.
        attempt_dir: where its files lie.
    """
    threads = str(plan.strategy.threads)
    env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if plan.placement.accelerator != CPU:
        env["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"  # less fragmentation: larger batches fit
    return Program(
        argv=(sys.executable, "-m", f"mofang.recipes.{name}", "--config", str(attempt_dir / "recipe.json")),
        env=env,
        files={"recipe.json": encode(config)},
    )


def device_kind(plan: Plan) -> DeviceKind:
    """Return where the plan's tensors live."""
    return DeviceKind.CPU if plan.placement.accelerator == CPU else DeviceKind.CUDA
