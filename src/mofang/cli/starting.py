"""``mofang plan -o command``: how to start a plan by hand, without Mofang's agents, as a script for a shell."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mofang.domain.plan import Plan, Role
from mofang.domain.scenario import Scenario
from mofang.launchers.frameworks import FOLDERS, framework_table
from mofang.launchers.program import OWN, Program, copy_words, dealt
from mofang.launchers.programs import programs_of
from mofang.launchers.torchrun import torchrun_words
from mofang.report.layouts import hardware_text, layout_text

__all__ = ["start_script"]

_HEAD = "head-node"  # stands for the name of a node, which only the user knows
_PORT = 29500
_END = "END-OF-FILE"


def start_script(scenario: Scenario, plan: Plan) -> str:
    """Return a script that starts the plan: what must be prepared, files, environment, and the command of each node.

    Raises:
        SpecError: no launcher writes this plan's command; it says why.
    """
    folder = Path(scenario.name) / "start"
    programs = programs_of(scenario, plan, folder)
    body = [text for role, program in programs for text in _program_lines(plan, role, program, folder)]
    return "\n".join([*_heading(scenario, plan), *_prepare([one for _, one in programs]), *body]) + "\n"


def _heading(scenario: Scenario, plan: Plan) -> Iterator[str]:
    framework = plan.strategy.framework
    yield f"# {scenario.name}: {layout_text(plan)}"
    yield f"# on {hardware_text(plan)}"
    if framework not in OWN:
        table = framework_table(scenario.task, framework)
        yield f"# The flags are those of {table.framework} {table.version} ({table.source})."
        yield f"# To have it: {table.install}."
    if framework in FOLDERS and FOLDERS[framework] not in scenario.environment.variables:
        yield f"# Its scripts are looked for here; environment.env.{FOLDERS[framework]} names another folder."


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
    for index in range(program.copies):
        words = torchrun_words(replace(program, argv=copy_words(program.argv, index)), plan, rendezvous=rendezvous)
        yield _joined((*_own_devices(program, plan, index), *words)) + (" &" if program.copies > 1 else "")


def _own_devices(program: Program, plan: Plan, index: int) -> tuple[str, ...]:
    """Return what gives one copy of several its part of the node's devices."""
    if program.copies == 1:
        return ()
    devices = [str(device) for device in range(plan.placement.devices_per_node)]
    return "env", f"CUDA_VISIBLE_DEVICES={','.join(dealt(devices, index, program.copies))}"


def _purpose(role: Role | None) -> str:
    return "" if role is None else f" for {role.value}"


def _joined(words: Sequence[str]) -> str:
    """Return words as a line for a shell; the interpreter is whichever the node calls python."""
    return shlex.join("python" if word == sys.executable else word for word in words)
