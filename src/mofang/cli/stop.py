"""``mofang stop``: end jobs with grace."""

from __future__ import annotations

import argparse

from mofang.cli import session
from mofang.cli.output import line, note
from mofang.cli.parser import examples
from mofang.errors import MofangError

__all__ = ["configure", "execute"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("job", nargs="+", help="id, the start of an id, or name")
    parser.epilog = examples("mofang stop code-gpt", "mofang stop 7f3a 91bc")


def execute(args: argparse.Namespace) -> int:
    """Ask every job to end; one that cannot be asked does not keep the others from it."""
    failures: list[MofangError] = []
    with session.connect() as client:
        for ref in args.job:
            try:
                line(f"{ref} {client.stop(ref)}")
            except MofangError as error:
                failures.append(error)
    for failure in failures[:-1]:
        note(f"error: {failure.message}")
    if failures:
        raise failures[-1]
    return 0
