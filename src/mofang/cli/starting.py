"""``mofang plan -o command``: how to start a plan by hand, without Mofang's agents, as a script for a shell."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mofang.domain.plan import Plan, Role
from mofang.domain.scenario import Classify, Command, Finetune, Pretrain, Scenario
from mofang.errors import SpecError
from mofang.launchers.command import command_program
from mofang.launchers.finetune import finetune_program
from mofang.launchers.flagtable import FlagTable, flag_table
from mofang.launchers.frameworks import FOLDERS, framework_program
from mofang.launchers.gpt import gpt_program
from mofang.launchers.program import Program
from mofang.launchers.services import service_program
from mofang.launchers.serving import serving_program
from mofang.launchers.torchrun import torchrun_words
from mofang.report.layouts import hardware_text, layout_text

__all__ = ["start_script"]

_HEAD = "head-node"  # stands for the name of a node, which only the user knows
_PORT = 29500
_END = "END-OF-FILE"
_OWN = ("gpt", "finetune", "classify", "serving", "command")  # frameworks that are Mofang's own programs


def start_script(scenario: Scenario, plan: Plan) -> str:
    """Return a script that starts the plan: what must be prepared, files, environment, and the command of each node.

    Raises:
        SpecError: no launcher writes this plan's command; it says why.
    """
    folder = Path(scenario.name) / "start"
    programs = _programs(scenario, plan, folder)
    body = [text for role, program in programs for text in _program_lines(plan, role, program, folder)]
    return "\n".join([*_heading(scenario, plan), *_prepare([one for _, one in programs]), *body]) + "\n"


def _programs(scenario: Scenario, plan: Plan, folder: Path) -> list[tuple[Role | None, Program]]:
    """Return what is started: one program, or one for each part of a service."""
    task, framework = scenario.task, plan.strategy.framework
    if isinstance(task, Command):
        return [(None, command_program(task))]
    if plan.parts and plan.service is None:
        raise SpecError(
            "no launcher starts one job on two kinds of chips",
            hint="--pick N takes another plan of the table",
        )
    if isinstance(task, Classify):
        raise SpecError("image classification is started with `mofang run`", hint="or save the plan with -o yaml")
    if isinstance(task, Pretrain) and framework == "gpt":
        return [(None, gpt_program(task, plan, folder))]
    if isinstance(task, Finetune) and framework == "finetune":
        return [(None, finetune_program(task, plan, folder))]
    if isinstance(task, Pretrain | Finetune):
        return [(None, framework_program(task, plan, folder, scenario.environment))]
    if framework == "serving":
        return [(None, serving_program(task, plan, folder))]
    roles: list[Role | None] = [*(part.role for part in plan.parts)]
    return [(role, service_program(task, plan, folder, role=role)) for role in roles or [None]]


def _heading(scenario: Scenario, plan: Plan) -> Iterator[str]:
    framework = plan.strategy.framework
    yield f"# {scenario.name}: {layout_text(plan)}"
    yield f"# on {hardware_text(plan)}"
    table = _table(framework)
    if table is not None:
        yield f"# The flags are those of {framework} {table.version} ({table.source})."
    if framework in FOLDERS and FOLDERS[framework] not in scenario.environment.variables:
        yield f"# Its scripts are looked for here; environment.env.{FOLDERS[framework]} names another folder."


def _table(framework: str) -> FlagTable | None:
    return None if framework in _OWN else flag_table(framework)


def _prepare(programs: Sequence[Program]) -> Iterator[str]:
    """Yield what must have run once before the first start."""
    commands = list(dict.fromkeys(command for program in programs for command in program.prepare))
    if commands:
        yield ""
        yield "# Once, before the first start:"
        yield from map(_joined, commands)


def _program_lines(plan: Plan, role: Role | None, program: Program, folder: Path) -> Iterator[str]:
    part = next((part for part in plan.parts if part.role is role), None)
    nodes = (part.placement if part is not None else plan.placement).num_nodes
    yield ""
    yield f"# {'On' if nodes == 1 else f'On each of {nodes}'} node{'' if nodes == 1 else 's'}{_purpose(role)}:"
    if program.files:
        yield _joined(("mkdir", "-p", str(folder)))
    for name, text in program.files.items():
        yield f"cat > {shlex.quote(str(folder / name))} <<'{_END}'"
        yield text.rstrip("\n")
        yield _END
    yield from (f"export {name}={shlex.quote(value)}" for name, value in program.env.items())
    if nodes > 1 and not program.one_per_node:
        yield f"# ({_HEAD} stands for the name of one of them)"
    rendezvous = f"{_HEAD if nodes > 1 else '127.0.0.1'}:{_PORT}"
    yield _joined(torchrun_words(program, plan, rendezvous=rendezvous))


def _purpose(role: Role | None) -> str:
    return "" if role is None else f" for {role.value}"


def _joined(words: Sequence[str]) -> str:
    """Return words as a line for a shell; the interpreter is whichever the node calls python."""
    return shlex.join("python" if word == sys.executable else word for word in words)
