"""The files of a checkpoint directory: names, drafts, what can be loaded, and retention. No torch.

A step is written in a draft directory of its own, ``.step-00000120.RUN.draft``, which gets its name when it is
complete. So what is cut short is never seen as a checkpoint, and ranks of a generation that is gone can only write
into a draft that nobody will complete.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import records
from mofang.recovery.checkpoint.manifest import Manifest, Shard
from mofang.recovery.checkpoint.writing import sync, write_atomic

__all__ = [
    "candidates",
    "claim",
    "claimed_by",
    "clean",
    "commit_path",
    "describe",
    "draft_dir",
    "latest_checkpoint",
    "move_latest",
    "publish",
    "put_back",
    "read_manifest",
    "retain",
    "shard_name",
    "step_dir",
    "verify",
]

_DRAFT = re.compile(r"\.step-(\d+)\.(\d+)\.draft")
_ASIDE = re.compile(r"\.(step-\d+)\.aside")


def step_dir(directory: Path, step: int) -> Path:
    """Return the directory of one complete step."""
    return directory / f"step-{step:08d}"


def draft_dir(directory: Path, step: int, run: int) -> Path:
    """Return where a run writes a step until it is complete."""
    return directory / f".step-{step:08d}.{run}.draft"


def shard_name(rank: int, world_size: int) -> str:
    """Return the name of one rank's shard file."""
    return f"shard-{rank:05d}-of-{world_size:05d}.safetensors"


def commit_path(target: Path, rank: int, world_size: int) -> Path:
    """Return the path of one rank's commit record."""
    return target / f"commit-{rank:05d}-of-{world_size:05d}.json"


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


def read_manifest(directory: Path, step: int) -> Manifest:
    """Return the manifest of a step.

    Raises:
        CheckpointError: it is missing, torn, corrupt, of another step or of a newer format.
    """
    manifest = records.read_manifest(step_dir(directory, step) / "manifest.json")
    if manifest.step != step:
        raise CheckpointError(f"the manifest is that of step {manifest.step}")
    return manifest


def publish(draft: Path, directory: Path, step: int) -> None:
    """Give a complete draft its name and point ``latest`` at it, atomically and durably.

    A directory that has the name already (a step that is saved once more after a way back) is put aside until then.
    """
    target = step_dir(directory, step)
    aside = directory / f".{target.name}.aside"
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.replace(aside)
    draft.replace(target)
    sync(directory)
    move_latest(directory, step)
    shutil.rmtree(aside, ignore_errors=True)


def move_latest(directory: Path, step: int) -> None:
    """Point ``latest`` at a complete step, atomically and durably."""
    records.write_pointer(directory / "latest", step)


def latest_checkpoint(directory: Path) -> int | None:
    """Return the step that ``latest`` names, or None where nothing was ever committed, or the pointer is damaged."""
    return records.read_pointer(directory / "latest")


def _complete(directory: Path) -> list[int]:
    """Return the steps that have a manifest, the newest first."""
    names = (path.parent.name.removeprefix("step-") for path in directory.glob("step-*/manifest.json"))
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def candidates(directory: Path) -> tuple[int, ...]:
    """Return the steps to try, best first: the one ``latest`` names, then the complete ones before it.

    Where ``latest`` cannot be read, every complete step. A later step than ``latest`` was never agreed on.
    """
    latest = latest_checkpoint(directory)
    complete = _complete(directory)
    if latest is None:
        return tuple(complete)
    return (latest, *(step for step in complete if step < latest))


def retain(directory: Path, newest: int, keep: int) -> None:
    """Remove all but the ``keep`` newest complete steps up to ``newest``, and drafts of steps before it.

    Later steps belong to a past that was refused and left; incomplete ones to a save that was cut short.
    """
    kept = {step for step in _complete(directory) if step <= newest}
    kept = set(sorted(kept, reverse=True)[: max(1, keep)])
    for path in directory.glob("step-*"):
        name = path.name.removeprefix("step-")
        if name.isdigit() and int(name) not in kept:
            shutil.rmtree(path, ignore_errors=True)
    for path in directory.glob(".step-*.draft"):
        found = _DRAFT.fullmatch(path.name)
        if found and int(found[1]) <= newest:
            shutil.rmtree(path, ignore_errors=True)


def claim(directory: Path, run: int) -> None:
    """Make a run the one whose steps are completed, and remove what others left half done.

    Args:
        directory: of the checkpoints.
        run: a number that is this run's alone, such as one drawn by rank 0 when the generation starts.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / ".run", [f"{run}\n".encode()])
    clean(directory, run)


def claimed_by(directory: Path) -> int | None:
    """Return the run that claimed the directory last."""
    try:
        text = (directory / ".run").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None


def clean(directory: Path, run: int) -> None:
    """Remove what other runs left half done."""
    for path in directory.glob(".step-*.draft"):
        found = _DRAFT.fullmatch(path.name)
        if found and int(found[2]) != run:
            shutil.rmtree(path, ignore_errors=True)
    for path in directory.glob(".*.draft"):
        if path.is_file():
            path.unlink(missing_ok=True)
    put_back(directory)


def put_back(directory: Path) -> None:
    """Give a step that was put aside its name back, where its successor never came."""
    for path in directory.glob(".step-*.aside"):
        found = _ASIDE.fullmatch(path.name)
        if found and not (directory / found[1]).exists():
            path.replace(directory / found[1])
        else:
            shutil.rmtree(path, ignore_errors=True)
