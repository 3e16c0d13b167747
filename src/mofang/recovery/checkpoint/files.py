"""The files of a checkpoint directory: names, durable writes, the pointer ``latest`` and retention. No torch."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TypeVar

from mofang.domain.codec import decode, encode
from mofang.errors import CheckpointError, StoreError
from mofang.recovery.checkpoint.manifest import FORMAT, Commit, Manifest, Shard

__all__ = [
    "candidates",
    "commit_path",
    "describe",
    "latest_checkpoint",
    "make_durable",
    "move_latest",
    "read_commit",
    "read_manifest",
    "retain",
    "shard_name",
    "step_dir",
    "verify",
    "write_commit",
    "write_manifest",
]

T = TypeVar("T", Commit, Manifest)


def step_dir(directory: Path, step: int) -> Path:
    """Return the directory of one step."""
    return directory / f"step-{step:08d}"


def shard_name(rank: int, world_size: int) -> str:
    """Return the name of one rank's shard file."""
    return f"shard-{rank:05d}-of-{world_size:05d}.safetensors"


def commit_path(target: Path, rank: int, world_size: int) -> Path:
    """Return the path of one rank's commit record."""
    return target / f"commit-{rank:05d}-of-{world_size:05d}.json"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_atomic(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync(path.parent)


def make_durable(path: Path) -> Shard:
    """Flush a written shard file to the disk and return its size and sum."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return describe(path)


def describe(path: Path) -> Shard:
    """Return a file's name, size and SHA-256 sum."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(file=path.name, bytes=path.stat().st_size, sha256=digest)


def verify(target: Path, shard: Shard) -> None:
    """Raise ``CheckpointError`` unless the file is the one that was committed."""
    path = target / shard.file
    try:
        found = describe(path)
    except OSError as error:
        raise CheckpointError(f"{shard.file} cannot be read: {error.strerror}") from error
    if found.bytes != shard.bytes:
        raise CheckpointError(f"{shard.file} is torn: {found.bytes} of {shard.bytes} bytes")
    if found.sha256 != shard.sha256:
        raise CheckpointError(f"{shard.file} is corrupt: SHA-256 {found.sha256[:12]}, not {shard.sha256[:12]}")


def write_commit(target: Path, commit: Commit) -> None:
    """Make one rank's commit record durable."""
    _write_atomic(commit_path(target, commit.rank, commit.world_size), encode(commit))


def write_manifest(target: Path, manifest: Manifest) -> None:
    """Make the manifest durable; with it the step is complete."""
    _write_atomic(target / "manifest.json", encode(manifest))
    _sync(target.parent)


def _read(kind: type[T], path: Path) -> T:
    try:
        return decode(kind, path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
    except StoreError as error:
        raise CheckpointError(f"{path.name} is torn or corrupt: {error.message[:120]}") from error


def read_commit(target: Path, rank: int, world_size: int) -> Commit:
    """Return one rank's commit record.

    Raises:
        CheckpointError: it is missing, torn or corrupt.
    """
    return _read(Commit, commit_path(target, rank, world_size))


def read_manifest(target: Path) -> Manifest:
    """Return the manifest of a step.

    Raises:
        CheckpointError: it is missing, torn, corrupt or of a newer format.
    """
    manifest = _read(Manifest, target / "manifest.json")
    if manifest.format != FORMAT:
        raise CheckpointError(f"the manifest has format {manifest.format}, this version reads {FORMAT}")
    return manifest


def move_latest(directory: Path, step: int) -> None:
    """Point ``latest`` at a complete step, atomically and durably."""
    _write_atomic(directory / "latest", f"{step_dir(directory, step).name}\n")


def _steps(directory: Path) -> list[int]:
    names = (path.name.removeprefix("step-") for path in directory.glob("step-*"))
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def latest_checkpoint(directory: Path) -> int | None:
    """Return the step that ``latest`` names, or None where nothing was ever committed."""
    try:
        name = (directory / "latest").read_text(encoding="utf-8").strip().removeprefix("step-")
    except (OSError, UnicodeDecodeError):
        return None
    return int(name) if name.isdigit() else None


def candidates(directory: Path) -> tuple[int, ...]:
    """Return the steps to try, best first: the one ``latest`` names, then the complete ones before it.

    Without a readable ``latest``, every complete step. A later step than ``latest`` was never agreed on.
    """
    latest = latest_checkpoint(directory)
    complete = [step for step in _steps(directory) if (step_dir(directory, step) / "manifest.json").exists()]
    if latest is None:
        return tuple(complete)
    return (latest, *(step for step in complete if step < latest))


def retain(directory: Path, newest: int, keep: int) -> None:
    """Remove all but the ``keep`` newest complete steps up to ``newest``.

    Later steps belong to a past that was refused and left; incomplete ones to a save that was cut short.
    """
    complete = [
        step for step in _steps(directory) if step <= newest and (step_dir(directory, step) / "manifest.json").exists()
    ]
    kept = set(complete[: max(1, keep)])
    for step in _steps(directory):
        if step not in kept:
            shutil.rmtree(step_dir(directory, step), ignore_errors=True)
