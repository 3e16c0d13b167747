"""The first thing a worker of another framework executes: prepares data once, then becomes the framework's program.

    python -m mofang.launchers.begin ATTEMPT_DIR/begin.json

The file holds ``argv``, ``prepare``, ``prepared`` (the file that says it is done), ``one_per_node`` and ``copies`` of
a ``Program``, and ``on_cores``. The process is replaced, so that signals and exit code are the program's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mofang.clock import Clock, SystemClock
from mofang.launchers.program import copy_words, dealt

__all__ = ["main", "prepare", "started_as"]

_NOT_FOUND = 127  # what a shell exits with when there is no such program
_LOOK_S = 0.5
# A program that starts its ranks itself must not take the agent's word for how many there are.
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
_DEVICES = "CUDA_VISIBLE_DEVICES"


def main(arguments: Sequence[str], clock: Clock) -> int:
    """Prepare, and become the program; return an exit code only where that fails."""
    begin: Mapping[str, Any] = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    code = prepare(begin["prepare"], Path(begin["prepared"]), int(os.environ.get("RANK", "0")), clock)
    if code:
        return code
    if begin["on_cores"]:
        _share_cores(Path(arguments[0]).with_name("launch.json"), int(os.environ.get("NODE_RANK", "0")))
    argv, environment = started_as(begin, os.environ)
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - the plan's own program, without a shell
    except OSError as error:
        sys.stderr.write(f"{argv[0]} cannot be executed: {error.strerror}\n")
    return _NOT_FOUND


def _share_cores(launch: Path, node: int) -> None:
    """Let the worker run on all cores that the job has on this node.

    Other frameworks' helper threads want cores too: gloo's connections may spin forever at their end where a rank has
    one core alone (seen with torch 2.13 and TRL 1.16).
    """
    given = json.loads(launch.read_text(encoding="utf-8"))["nodes"][node]["device_indices"]
    with suppress(OSError):  # some of them are not there: then it stays where it is
        os.sched_setaffinity(0, given)


def prepare(commands: Sequence[Sequence[str]], done: Path, rank: int, clock: Clock) -> int:
    """Run what must have run once in the life of the job; return the exit code of the first that failed, else 0.

    Args:
        commands: command lines, in their order.
        done: the file that says that they have run; it lies where all nodes see it.
        rank: the worker's; the first prepares, the others wait for it.
        clock: the time.
    """
    while commands and rank and not done.exists():
        clock.sleep(_LOOK_S)
    if not commands or done.exists():
        return 0
    done.parent.mkdir(parents=True, exist_ok=True)
    for command in commands:
        try:
            code = subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode
        except OSError as error:
            sys.stderr.write(f"{command[0]} cannot be executed: {error.strerror}\n")
            code = _NOT_FOUND
        if code:
            return code if code > 0 else 1
    done.touch()
    return 0


def started_as(begin: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the program's command line and its environment.

    One that starts its own ranks is told of none; of several copies each has its part of the devices, and its port.
    """
    argv, variables = tuple(begin["argv"]), dict(environment)
    if not begin["one_per_node"]:
        return argv, variables
    index, copies = int(environment.get("LOCAL_RANK", "0")), int(begin["copies"])
    for name in _RANKS:
        variables.pop(name, None)
    devices = [device for device in environment.get(_DEVICES, "").split(",") if device]
    if devices:
        variables[_DEVICES] = ",".join(dealt(devices, index, copies))
    return copy_words(argv, index), variables


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], SystemClock()))
