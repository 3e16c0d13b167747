"""Whether a job's framework is there: asked before the job is accepted, where this machine can tell."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.domain.job import Job
from mofang.errors import InfeasibleError
from mofang.launchers.program import OWN

if TYPE_CHECKING:
    from mofang.launchers.frameworks import Needs

__all__ = ["check", "is_needed"]

_ANSWER_S = 60.0  # a cold interpreter on a network file system takes its time
_MISSING = (
    "import sys; from importlib.util import find_spec; print(*(name for name in sys.argv[1:] if not find_spec(name)))"
)


def is_needed(job: Job) -> bool:
    """Whether a plan of the job is for a framework that Mofang does not bring itself."""
    return any(plan.strategy.framework not in OWN for plan in job.plans)


def check(job: Job, home: Path) -> None:
    """Refuse a job that could not start: no launcher writes its command, or its framework is not installed.

    Hosts see the same files at the same paths, so that what is missing here is missing there. What modules or an image
    bring is known on the host alone.

    Raises:
        InfeasibleError: something of the framework is not there.
        SpecError: no launcher writes this command; it says why.
    """
    from mofang.launchers.frameworks import needs_of  # noqa: PLC0415 - few jobs need them
    from mofang.launchers.programs import worker_program  # noqa: PLC0415

    scenario, environment = job.scenario, job.scenario.environment
    for plan in job.plans:
        worker_program(scenario, plan, home / "runs" / job.id / "attempt-0001")
    if environment.modules or environment.image:
        return
    for name in dict.fromkeys(plan.strategy.framework for plan in job.plans if plan.strategy.framework not in OWN):
        needs = needs_of(scenario.task, name, environment)
        missing = _missing(needs, environment.venv)
        if missing:
            raise InfeasibleError(
                f"{name} is not installed here: {missing}",
                hint=f"{needs.install} (environment: {{venv: ...}} names where), or start it by hand: "
                "`mofang plan -o command`",
                data={"framework": name, "missing": missing},
            )


def _missing(needs: Needs, venv: str | None) -> str:
    """Return what is not there, in words; empty where nothing is missing."""
    if needs.executable and shutil.which(needs.executable, path=_path(venv)) is None:
        return f"there is no program {needs.executable}"
    if needs.script and not Path(needs.script).is_file():
        return f"there is no file {needs.script}"
    lacking = _missing_modules(needs.python, needs.modules)
    return "" if not lacking else f"{needs.python} has no {', '.join(lacking)}"


def _path(venv: str | None) -> str:
    path = environ.get("PATH", "")
    return f"{venv}/bin:{path}" if venv else path


def _missing_modules(python: str, modules: Iterable[str]) -> list[str]:
    wanted = list(modules)
    if python == sys.executable or not wanted:
        return [name for name in wanted if find_spec(name) is None]
    try:
        found = subprocess.run(
            [python, "-c", _MISSING, *wanted],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [f"answer ({type(error).__name__})"]
    return found.stdout.split()
