"""What a job brings along besides its row in the store: values of secrets, and a copy of its working directory.

Both are on disk before the job is accepted. Secrets are one private file a job, read by its agents, gone when the job
has ended; they never enter the store, an event or a log.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from mofang.domain.job import Job
from mofang.domain.scenario import WorkdirMode
from mofang.errors import StoreError

__all__ = ["drop", "drop_secrets", "is_needed", "pack", "sweep"]


def is_needed(job: Job) -> bool:
    """Return whether the job brings anything."""
    return bool(job.scenario.environment.secrets) or _uploads(job)


def pack(home: Path, job: Job, secrets: Mapping[str, str]) -> None:
    """Write a job's secrets durably, for this user alone, and copy its working directory.

    Raises:
        StoreError: they cannot be written; nothing is left then.
    """
    try:
        if job.scenario.environment.secrets:
            _keep_secrets(home, job, secrets)
        if _uploads(job):
            _copy_workdir(home, job)
    except (OSError, shutil.Error) as error:
        drop(home, job.id)
        raise StoreError(
            f"what the job brings along cannot be kept in {home}: {_first(error)}",
            hint="free some space, or check the permissions, then submit again",
        ) from error


def drop(home: Path, job_id: str) -> None:
    """Remove everything that came with a job that was not accepted."""
    drop_secrets(home, job_id)
    shutil.rmtree(home / "runs" / job_id, ignore_errors=True)


def drop_secrets(home: Path, job_id: str) -> None:
    """Remove a job's secrets, if it has any."""
    _secrets(home, job_id).unlink(missing_ok=True)


def sweep(home: Path, live: Collection[str]) -> None:
    """Remove the secrets of jobs that have ended, or were never accepted because a crash came first."""
    for path in (home / "secrets").glob("*.json"):
        if path.stem not in live:
            path.unlink(missing_ok=True)


def _uploads(job: Job) -> bool:
    environment = job.scenario.environment
    return environment.workdir is not None and environment.workdir_mode is WorkdirMode.UPLOAD


def _secrets(home: Path, job_id: str) -> Path:
    return home / "secrets" / f"{job_id}.json"


def _keep_secrets(home: Path, job: Job, secrets: Mapping[str, str]) -> None:
    path = _secrets(home, job.id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    wanted = {secret.name: secrets[secret.name] for secret in job.scenario.environment.secrets}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(wanted, file)
        file.flush()
        os.fsync(file.fileno())


def _copy_workdir(home: Path, job: Job) -> None:
    run_dir = home / "runs" / job.id
    run_dir.mkdir(mode=0o700, parents=True)
    shutil.copytree(str(job.scenario.environment.workdir), run_dir / "workdir", symlinks=True)


def _first(error: OSError | shutil.Error) -> str:
    """Return one line of an error that may hold one entry for each file."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        source, _, why = error.args[0][0]
        return f"{source}: {why}"
    return str(error)
