"""The user's own program, started once a worker as it is written."""

from __future__ import annotations

from mofang.domain.scenario import Command
from mofang.launchers.program import Program

__all__ = ["command_program"]


def command_program(task: Command) -> Program:
    """Return the program; how many threads it may use is all that is added to its environment."""
    return Program(argv=task.argv, env={"OMP_NUM_THREADS": str(task.cores_per_worker)})
