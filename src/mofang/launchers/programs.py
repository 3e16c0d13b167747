"""The programs of a plan, whichever framework it is for: the one place that chooses a launcher."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

from mofang.domain.hardware import CPU
from mofang.domain.plan import Plan, Role
from mofang.domain.scenario import Classify, Command, Finetune, Pretrain, Scenario, Serve
from mofang.errors import SpecError
from mofang.launchers.classify import classify_program
from mofang.launchers.command import command_program
from mofang.launchers.finetune import finetune_program
from mofang.launchers.frameworks import framework_program
from mofang.launchers.gpt import gpt_program
from mofang.launchers.program import OWN, Program, check_alike
from mofang.launchers.serving import serving_program

__all__ = ["begun", "programs_of", "worker_program"]

_BEGIN = "begin.json"


def programs_of(scenario: Scenario, plan: Plan, attempt_dir: Path) -> list[tuple[Role | None, Program]]:
    """Return what is started: one program, or one for each part of a service.

    Raises:
        SpecError: no launcher writes this plan's command; it says why.
    """
    task, environment = scenario.task, scenario.environment
    if isinstance(task, Command):
        return [(None, command_program(task))]
    if plan.parts and plan.service is None:
        raise SpecError(
            "no launcher starts one job on two kinds of chips", hint="--pick N takes another plan of the table"
        )
    if plan.strategy.framework in OWN:
        return [(None, _own_program(task, plan, attempt_dir))]
    roles: list[Role | None] = [*(part.role for part in plan.parts)]
    return [(role, framework_program(task, plan, attempt_dir, environment, role=role)) for role in roles or [None]]


def _own_program(task: Pretrain | Finetune | Classify | Serve, plan: Plan, attempt_dir: Path) -> Program:
    match task, plan.strategy.framework:
        case Pretrain(), "gpt":
            return gpt_program(task, plan, attempt_dir)
        case Finetune(), "finetune":
            return finetune_program(task, plan, attempt_dir)
        case Classify(), "classify":
            return classify_program(task, plan, attempt_dir)
        case Serve(), "serving":
            return serving_program(task, plan, attempt_dir)
    raise SpecError(
        f"no recipe of Mofang runs a {task.kind} scenario with {plan.strategy.framework}",
        hint="choose a plan of another framework, or fix it: strategy: {framework: ...}",
    )


def worker_program(scenario: Scenario, plan: Plan, attempt_dir: Path) -> Program:
    """Return what every worker of a job executes.

    Raises:
        SpecError: no launcher writes this plan's command; it says why.
        InfeasibleError: the plan has several parts.
    """
    check_alike(plan)
    ((_, program),) = programs_of(scenario, plan, attempt_dir)
    on_cores = plan.placement.accelerator == CPU and plan.strategy.framework not in OWN
    if not (program.prepare or program.one_per_node or on_cores):
        return program
    return begun(program, attempt_dir, on_cores=on_cores)


def begun(program: Program, attempt_dir: Path, *, on_cores: bool) -> Program:
    """Return the program started by ``mofang.launchers.begin``, which first does what an agent knows nothing of."""
    text = json.dumps(program.prepare)
    prepared = attempt_dir.parent / "data" / f"prepared-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    begin = {
        "argv": program.argv,
        "prepare": program.prepare,
        "prepared": str(prepared),
        "one_per_node": program.one_per_node,
        "copies": program.copies,
        "on_cores": on_cores,
    }
    return replace(
        program,
        argv=(sys.executable, "-P", "-m", "mofang.launchers.begin", str(attempt_dir / _BEGIN)),
        files={**program.files, _BEGIN: json.dumps(begin, indent=2)},
    )
