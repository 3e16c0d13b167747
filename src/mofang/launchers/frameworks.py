"""Which launcher makes the command of a plan for another framework."""

from __future__ import annotations

from pathlib import Path

from mofang.domain.plan import Plan
from mofang.domain.scenario import Environment, Finetune, Pretrain, Serve
from mofang.errors import SpecError
from mofang.launchers.deepspeed import deepspeed_program
from mofang.launchers.megatron import megatron_program
from mofang.launchers.mindspeed import mindspeed_program
from mofang.launchers.program import Program
from mofang.launchers.services import service_program
from mofang.launchers.torchtitan import torchtitan_program

__all__ = ["FOLDERS", "framework_program"]

# The variable of the job's environment that says where a framework's scripts are.
FOLDERS = {"megatron": "MEGATRON_PATH", "mindspeed": "MINDSPEED_PATH", "deepspeed": "RUN_CLM_PATH"}


def framework_program(
    task: Pretrain | Finetune | Serve, plan: Plan, attempt_dir: Path, environment: Environment
) -> Program:
    """Return the command of the plan's framework.

    Raises:
        SpecError: there is no launcher for it, or it cannot do what the plan says.
    """
    framework = plan.strategy.framework
    if isinstance(task, Serve):
        return service_program(task, plan, attempt_dir)
    folder = _folder(framework, environment)
    if framework == "mindspeed":
        return mindspeed_program(task, plan, attempt_dir, folder)
    if framework == "deepspeed":
        return deepspeed_program(task, plan, attempt_dir, folder)
    if isinstance(task, Pretrain) and framework == "megatron":
        return megatron_program(task, plan, attempt_dir, folder)
    if isinstance(task, Pretrain) and framework == "torchtitan":
        return torchtitan_program(task, plan, attempt_dir)
    raise SpecError(f"there is no launcher for {task.kind} with {framework}", hint="choose a plan of another framework")


def _folder(framework: str, environment: Environment) -> str:
    """Return where the framework's scripts are: as the job says, else its working directory."""
    name = FOLDERS.get(framework, "")
    return environment.variables.get(name) or environment.workdir or "."
