"""``mofang schema``: the JSON schema of job files, for editors and for those who want every key described."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace

from mofang.cli.parser import examples

__all__ = ["configure", "execute"]


def configure(parser: ArgumentParser) -> None:
    """Declare the command's options: it has none."""
    parser.epilog = examples("mofang schema > job.schema.json")


def execute(args: Namespace) -> int:
    """Print the schema to standard output."""
    from mofang.spec.schema import json_schema  # noqa: PLC0415 - pydantic is kept off the way to help

    del args
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
    return 0
