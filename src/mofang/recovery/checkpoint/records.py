"""The small files of a checkpoint: commit records, manifests and the pointer ``latest``, each with a sum of its own.

One bit of a learning rate that flips on the disk leaves a manifest that reads well, so a shard's sum is not enough. A
JSON file ends in the SHA-256 of the text without it; ``latest`` has a second line with the sum of the first. No torch.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TypeVar

from mofang.domain.codec import decode, encode
from mofang.errors import CheckpointError, StoreError
from mofang.recovery.checkpoint.manifest import READABLE, Commit, Manifest
from mofang.recovery.checkpoint.writing import write_atomic

__all__ = [
    "parse_pointer",
    "pointer_text",
    "read_commit",
    "read_manifest",
    "read_pointer",
    "write_commit",
    "write_manifest",
    "write_pointer",
]

T = TypeVar("T", Commit, Manifest)

_SUM = re.compile(rb',"sum":"([0-9a-f]{64})"\}\Z')
_POINTER = re.compile(rb"step-(\d{8,})\n(?:sum-([0-9a-f]{16})\n)?\Z")


def write_commit(path: Path, commit: Commit) -> None:
    """Make one rank's commit record durable."""
    write_atomic(path, [_summed(commit)])


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Make a manifest durable."""
    write_atomic(path, [_summed(manifest)])


def read_commit(path: Path) -> Commit:
    """Return one rank's commit record.

    Raises:
        CheckpointError: it is missing, torn or corrupt.
    """
    commit, summed = _read(Commit, path)
    if not summed:
        raise CheckpointError(f"{path.name} is torn or corrupt: its sum is missing")
    return commit


def read_manifest(path: Path) -> Manifest:
    """Return a manifest.

    Raises:
        CheckpointError: it is missing, torn, corrupt or of a newer format.
    """
    manifest, summed = _read(Manifest, path)
    if manifest.format not in READABLE:
        raise CheckpointError(f"the manifest has format {manifest.format}, this version reads up to {READABLE[-1]}")
    if manifest.format > 1 and not summed:
        raise CheckpointError(f"{path.name} is torn or corrupt: its sum is missing")
    return manifest


def pointer_text(step: int) -> bytes:
    """Return what a pointer to a step holds."""
    line = f"step-{step:08d}\n".encode()
    return line + f"sum-{_short(line)}\n".encode()


def write_pointer(path: Path, step: int) -> None:
    """Point to a step, durably."""
    write_atomic(path, [pointer_text(step)])


def read_pointer(path: Path) -> int | None:
    """Return the step that is pointed to; None where there is no pointer, or it is not as it was written."""
    try:
        return parse_pointer(path.read_bytes())
    except OSError:
        return None


def parse_pointer(text: bytes) -> int | None:
    """Return the step that a pointer names; None where it is not as it was written."""
    found = _POINTER.match(text)
    if found is None or (found[2] and found[2].decode() != _short(text[: text.index(b"\n") + 1])):
        return None
    return int(found[1])


def _short(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]


def _summed(value: Commit | Manifest) -> bytes:
    body = encode(value).encode()
    return body[:-1] + f',"sum":"{hashlib.sha256(body).hexdigest()}"}}'.encode()


def _read(kind: type[T], path: Path) -> tuple[T, bool]:
    """Return a value and whether a sum vouches for it."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
    found = _SUM.search(text)
    if found is not None:
        text = text[: found.start()] + b"}"
        if hashlib.sha256(text).hexdigest().encode() != found[1]:
            raise CheckpointError(f"{path.name} is corrupt: its sum is not that of its text")
    try:
        return decode(kind, text), found is not None
    except StoreError as error:
        raise CheckpointError(f"{path.name} is torn or corrupt: {error.message[:120]}") from error
