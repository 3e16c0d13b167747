"""From a job file on the command line to a scenario with plans, and the values of its secrets."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.cli.settings import home
from mofang.domain.plan import MatchResult
from mofang.domain.scenario import Command, Scenario, Secret
from mofang.errors import SpecError

if TYPE_CHECKING:
    from mofang.client import Client
    from mofang.spec.job_file import JobFile

__all__ = ["add_job_options", "find_plans", "load", "read_secrets"]


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that change a job file."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="override a value of the file: train.steps=200"
    )


def load(path: str, sets: Sequence[str]) -> JobFile:
    """Read a job file or a saved plan.

    Raises:
        SpecError: it is wrong; and what else the specification raises.
    """
    from mofang.catalog.knowledge import Catalog  # noqa: PLC0415 - pydantic and the catalogue's files take a while
    from mofang.spec.job_file import load_job_file  # noqa: PLC0415

    return load_job_file(Path(path), sets, catalog=Catalog.load(home() / "catalog"))


def find_plans(client: Client, file: JobFile, num_plans: int, *, explain: bool = False) -> MatchResult:
    """Return the plans that a saved plan holds, or ask for ranked ones; unmeasured hosts are measured first."""
    if file.plans is not None:
        return MatchResult(plans=tuple(file.plans), candidates=len(file.plans))
    if not isinstance(file.scenario.task, Command):
        from mofang.cli.doctor import measure_new_hosts  # noqa: PLC0415 - only where something is to be predicted

        measure_new_hosts(client)
    return client.plan(file.scenario, None, num_plans, explain=explain)


def read_secrets(scenario: Scenario) -> Mapping[str, str]:
    """Return the values of a scenario's secrets; they go to the controller and nowhere else.

    Raises:
        SpecError: a variable is not set, or a file cannot be read.
    """
    return {secret.name: _value(secret) for secret in scenario.environment.secrets}


def _value(secret: Secret) -> str:
    if secret.source == "env":
        value = os.environ.get(secret.reference)
        if value is None:
            raise SpecError(
                f"secret {secret.name}: the variable {secret.reference} is not set",
                hint=f"export {secret.reference}, or take the secret from a file",
            )
        return value
    try:
        return Path(secret.reference).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SpecError(
            f"secret {secret.name}: {secret.reference} cannot be read: {why}", hint="is the path right?"
        ) from error
