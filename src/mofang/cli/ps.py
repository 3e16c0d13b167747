"""``mofang ps``: the jobs there are."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from mofang.cli import session
from mofang.cli.output import add_output_option, emit, line, print_table
from mofang.cli.parser import did_you_mean, examples
from mofang.errors import UsageError
from mofang.units import show_duration

__all__ = ["configure", "execute"]

# Written out, not taken from ``JobState``: the domain would double the time that this command takes.
_LIVE = ("waiting", "running", "stopping")
_FINAL = ("succeeded", "failed", "stopped")
_COLUMNS = ("id", "name", "state", "devices", "step", "loss", "submitted", "ran", "why")


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("-a", "--all", action="store_true", help="every job, however many have ended")
    parser.add_argument("--state", action="append", metavar="STATE", help=f"only these: {', '.join(_LIVE + _FINAL)}")
    parser.add_argument("--limit", type=_positive, default=10, help="how many ended jobs to show (default: 10)")
    add_output_option(parser)
    parser.epilog = examples("mofang ps", "mofang ps --state failed --limit 50", "mofang ps -a -o json")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def execute(args: argparse.Namespace) -> int:
    """Print the jobs, newest first: all that live, and the newest that have ended."""
    wanted = _checked(args.state or [*_LIVE, *_FINAL])
    with session.connect() as client:
        live = [state for state in wanted if state in _LIVE]
        final = [state for state in wanted if state in _FINAL]
        rows = client.jobs(live, None) if live else []
        rows += client.jobs(final, None if args.all else args.limit) if final else []
    if args.output != "table":
        emit(rows, args.output)
    elif rows:
        now = session.clock().now()
        print_table(_COLUMNS, [_row(job, now) for job in rows])
    else:
        line("no jobs yet; `mofang demo` runs one" if args.state is None else "no such jobs")
    return 0


def _checked(states: Sequence[str]) -> Sequence[str]:
    for state in states:
        if state not in _LIVE + _FINAL:
            hint = did_you_mean(state, _LIVE + _FINAL) or f"the states are {', '.join(_LIVE + _FINAL)}"
            raise UsageError(f"there is no state {state!r}", hint=hint)
    return states


def _row(job: Mapping[str, Any], now: float) -> Sequence[str]:
    started, ended = job.get("started_at"), job.get("ended_at")
    why = "" if job["state"] == "succeeded" else str(job.get("message") or job.get("reason") or "")
    return (
        str(job["id"]),
        str(job["name"]),
        str(job["state"]),
        _devices(job.get("devices")),
        _steps(job.get("step"), job.get("steps")),
        f"{job['loss']:.3f}" if isinstance(job.get("loss"), int | float) else "-",
        f"{show_duration(max(0.0, now - job['submitted_at']))} ago",
        show_duration(max(0.0, (ended or now) - started)) if started else "-",
        why,
    )


def _devices(devices: Any) -> str:
    return str(devices) if devices else "-"


def _steps(step: int | None, steps: int | None) -> str:
    if step is None:
        return "-"
    return f"{step}/{steps}" if steps else str(step)
