"""The built-in recipe of a small service: one copy of the model a worker."""

from __future__ import annotations

import sys
from pathlib import Path

from mofang.domain.codec import encode
from mofang.domain.hardware import CPU
from mofang.domain.plan import Plan
from mofang.domain.recipe import DeviceKind, ServingConfig
from mofang.domain.scenario import Serve
from mofang.errors import SpecError
from mofang.launchers.program import Program

__all__ = ["serving_program"]


def serving_program(task: Serve, plan: Plan, attempt_dir: Path) -> Program:
    """Return the recipe's command line and its ``recipe.json``.

    Raises:
        SpecError: the plan asks for what the recipe cannot do, or the model has no folder.
    """
    service = plan.service
    if service is None:
        raise SpecError("a plan for a service must say how it is deployed")
    if task.model_path is None:
        raise SpecError(f"model {task.model.name} has no folder to serve from", hint="name the folder of its weights")
    if plan.strategy.parallelism.world_size > 1 or plan.parts:
        raise SpecError("the serving recipe holds a whole copy on each device", hint="use vllm or sglang")
    on_cores = plan.placement.accelerator == CPU
    longest = task.max_sequence or round(task.traffic.input.quantiles[-1] + task.traffic.output.quantiles[-1])
    config = ServingConfig(
        model_path=task.model_path,
        precision=service.precision,
        concurrency=service.concurrency,
        max_sequence=min(longest, task.model.max_sequence),
        kv_tokens=max(longest, round(min(service.estimate.kv_tokens, 2.0 * service.concurrency * longest))),
        port=task.port,
        name=task.model.name,
        seed=task.seed,
        device=DeviceKind.CPU if on_cores else DeviceKind.CUDA,
    )
    threads = str(plan.strategy.threads)
    return Program(
        argv=(sys.executable, "-m", "mofang.recipes.serving", "--config", str(attempt_dir / "recipe.json")),
        env={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        files={"recipe.json": encode(config)},
    )
