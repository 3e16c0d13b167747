"""``mofang``: the table of commands, and the edge where every error becomes one line.

Exit codes: 0 done, 1 failed, 2 usage, 3 no feasible plan, 4 unreachable, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING

from mofang import __version__
from mofang.errors import MofangError, UsageError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["COMMANDS", "EXIT_CODES", "main"]

# Each command is the module of that name beside this one. Only the chosen one is imported: help stays fast.
COMMANDS = {
    "demo": "train a small model on Python's own source, kill a worker half-way, show the report",
    "doctor": "look at this machine, measure it once, say what is wrong",
    "fleet": "show or export the hardware that plans are made for",
    "plan": "rank the ways to run a job, with predictions and reasons",
    "run": "plan a job, start it and follow it",
    "ps": "list jobs",
    "logs": "show what a worker printed",
    "stop": "end jobs, with grace",
    "explain": "say why a job waits, or what happened to it",
    "report": "write a job's report: one HTML file and its pictures",
    "catalog": "list the known chips, servers and models",
    "validate": "score the predictions against a file of measurements",
    "recovery": "train fault predictions on your own logs, rank nodes by risk",
    "simulate": "say what faults cost a long run under different practices",
    "schema": "print the JSON schema of job files",
}

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "usage: what was asked cannot be understood",
    3: "no feasible plan",
    4: "a backend, a host or the controller cannot be reached",
    130: "interrupted",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after ``mofang``; None takes them from the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 gets question marks, not an error
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except MofangError as error:
        return _told(error, words)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130
    except BrokenPipeError as error:
        return _reader_left(error, words)
    except Exception as error:  # the edge of the process: a user never sees a traceback
        return _unexpected(error, words)
    return code


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in {"-h", "--help"}:
        sys.stdout.write(_help())
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"mofang {__version__}\n")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        raise _unknown_command(name)
    return _run(name, import_module(f"mofang.cli.{name}"), rest)


def _run(name: str, module: ModuleType, words: list[str]) -> int:
    from mofang.cli.parser import Parser  # noqa: PLC0415 - argparse is not needed for top-level help

    parser = Parser(prog=f"mofang {name}", description=COMMANDS[name])
    module.configure(parser)
    return int(module.execute(parser.parse(words)))


def _help() -> str:
    commands = "\n".join(f"  {name:8} {text}" for name, text in COMMANDS.items())
    codes = "\n".join(f"  {code:<8} {text}" for code, text in EXIT_CODES.items())
    return f"""usage: mofang COMMAND ...

Say what to train and on what data; Mofang finds the layout and the hardware, runs the job and keeps it running.

commands:
{commands}

options:
  --help   this text; `mofang COMMAND --help` for one command
  --version

exit codes:
{codes}

example:
  mofang demo
"""


def _unknown_command(name: str) -> UsageError:
    from mofang.cli.parser import did_you_mean  # noqa: PLC0415 - only on the way to an error

    what = "option" if name.startswith("-") else "command"
    hint = did_you_mean(name, [*COMMANDS, "--help", "--version"]) or "`mofang --help` lists the commands"
    return UsageError(f"there is no {what} {name!r}", hint=hint)


def _told(error: MofangError, words: Sequence[str]) -> int:
    from mofang.cli.failure import tell  # noqa: PLC0415 - only on the way to an error

    return tell(error, words)


def _unexpected(error: Exception, words: Sequence[str]) -> int:
    from mofang.cli.failure import record  # noqa: PLC0415 - only on the way to an error

    return _told(record(error), words)


def _reader_left(error: BrokenPipeError, words: Sequence[str]) -> int:
    """Return 0 where whoever read our output has had enough (``mofang ps | head``): nothing failed."""
    import select  # noqa: PLC0415 - only for this seldom end

    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(state & select.POLLERR for _, state in poll.poll(0)):
        return _unexpected(error, words)
    # The interpreter flushes once more at exit: give it something that takes the rest.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
