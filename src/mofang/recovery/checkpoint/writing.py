"""Writes that are there whole or not at all, also after a power cut. No torch.

Everything goes through ``os.open``, ``os.write``, ``os.fsync`` and ``Path.replace``, so a test can count, fail or kill
any of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Bytes", "chunks", "sync", "write_atomic"]

Bytes = bytes | memoryview

_CHUNK = 8 << 20  # large enough that the call costs nothing, small enough that a sum keeps up in the cache


def write_atomic(path: Path, buffers: Iterable[Bytes]) -> int:
    """Write a file durably: a draft beside it, flushed, then moved into place; return its size.

    Args:
        path: of the file.
        buffers: what it holds, one after the other.

    Raises:
        OSError: it could not be written; what was there before stands, and the draft is gone.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        size = _write_draft(draft, buffers)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)
    return size


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_draft(draft: Path, buffers: Iterable[Bytes]) -> int:
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        size = sum(_write(handle, memoryview(buffer)) for buffer in buffers)
        os.fsync(handle)
    finally:
        os.close(handle)
    return size


def _write(handle: int, buffer: memoryview) -> int:
    done = 0
    while done < len(buffer):
        done += os.write(handle, buffer[done : done + _CHUNK])
    return done


def chunks(buffer: memoryview) -> Iterable[memoryview]:
    """Return a buffer in pieces of the size that is written at once."""
    return (buffer[start : start + _CHUNK] for start in range(0, len(buffer), _CHUNK))
