"""Which launcher makes the command of a plan for another framework, and what must be there to execute it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from mofang.domain.plan import Plan, Role
from mofang.domain.scenario import Classify, Environment, Finetune, Pretrain, Serve
from mofang.errors import SpecError
from mofang.launchers.deepspeed import deepspeed_program
from mofang.launchers.flagtable import FlagTable, flag_table
from mofang.launchers.megatron import megatron_program
from mofang.launchers.mindspeed import mindspeed_program
from mofang.launchers.program import Program
from mofang.launchers.services import service_program
from mofang.launchers.torchtitan import torchtitan_program

__all__ = ["FOLDERS", "Needs", "framework_program", "framework_table", "needs_of"]

# The variable of the job's environment that says where a framework's scripts are.
FOLDERS = {"megatron": "MEGATRON_PATH", "mindspeed": "MINDSPEED_PATH", "deepspeed": "RUN_CLM_PATH"}

_Task = Pretrain | Finetune | Classify | Serve


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a framework's command needs on a host: modules of ``python``, an executable on the path, a script.

    ``install`` says how to get them.
    """

    framework: str
    python: str
    modules: tuple[str, ...]
    executable: str
    script: str
    install: str


def framework_program(
    task: _Task, plan: Plan, attempt_dir: Path, environment: Environment, *, role: Role | None = None
) -> Program:
    """Return the command of the plan's framework, with the interpreter of the job's environment.

    Raises:
        SpecError: there is no launcher for it, or it cannot do what the plan says.
    """
    program = _program(task, plan, attempt_dir, environment, role)
    return replace(
        program,
        argv=_in_environment(program.argv, environment),
        prepare=tuple(_in_environment(words, environment) for words in program.prepare),
    )


def _program(task: _Task, plan: Plan, attempt_dir: Path, environment: Environment, role: Role | None) -> Program:
    framework = plan.strategy.framework
    if isinstance(task, Serve):
        return service_program(task, plan, attempt_dir, role=role)
    folder = _folder(framework, environment)
    match task, framework:
        case Pretrain() | Finetune(), "mindspeed":
            return mindspeed_program(task, plan, attempt_dir, folder)
        case Pretrain() | Finetune(), "deepspeed":
            return deepspeed_program(task, plan, attempt_dir, folder)
        case Finetune(), "trl":
            return deepspeed_program(task, plan, attempt_dir, folder)
        case Pretrain(), "megatron":
            return megatron_program(task, plan, attempt_dir, folder)
        case Pretrain(), "torchtitan":
            return torchtitan_program(task, plan, attempt_dir)
    raise SpecError(f"there is no launcher for {task.kind} with {framework}", hint="choose a plan of another framework")


def framework_table(task: object, framework: str) -> FlagTable:
    """Return the table that a task's command is written by: under DeepSpeed, fine-tuning runs TRL's script."""
    return flag_table("trl" if isinstance(task, Finetune) and framework == "deepspeed" else framework)


def needs_of(task: object, framework: str, environment: Environment) -> Needs:
    """Return what must be on a host for the command of a framework."""
    table = framework_table(task, framework)
    first = table.program[0]
    modules = ((table.program[1].partition(".")[0],) if first == "-m" else ()) + table.modules
    if framework == "deepspeed":
        modules = (*modules, "deepspeed")
    return Needs(
        framework=framework,
        python=_interpreter(environment),
        modules=tuple(dict.fromkeys(modules)),
        executable="" if first == "-m" or first.endswith(".py") else first,
        script=f"{_folder(framework, environment)}/{first}" if first.endswith(".py") else "",
        install=table.install,
    )


def _interpreter(environment: Environment) -> str:
    """Return the python of the job's virtual environment, else of its modules, else the one that runs Mofang."""
    if environment.venv:
        return f"{environment.venv}/bin/python"
    return "python" if environment.modules else sys.executable


def _in_environment(words: tuple[str, ...], environment: Environment) -> tuple[str, ...]:
    return (_interpreter(environment), *words[1:]) if words[0] == sys.executable else words


def _folder(framework: str, environment: Environment) -> str:
    """Return where the framework's scripts are: as the job says, else its working directory."""
    name = FOLDERS.get(framework, "")
    return environment.variables.get(name) or environment.workdir or "."
