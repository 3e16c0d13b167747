"""The file of one rank's part of a checkpoint, written straight from memory. No torch.

It is a safetensors file (https://github.com/huggingface/safetensors, section Format); its SHA-256 sum is taken on the
way, so every byte is read once. Sum and write release the interpreter's lock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mofang.recovery.checkpoint.manifest import Shape, Shard
from mofang.recovery.checkpoint.writing import Bytes, chunks, write_atomic
from mofang.recovery.snapshot.layout import element

__all__ = ["Blob", "write_shard"]

_LENGTH = 8  # bytes of the header's own length
_ALIGNMENT = 64  # where the data begins, so that a reader may map it


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """One tensor as it lies in memory: ``data`` are its bytes, row by row; ``dtype`` is torch's name."""

    name: str
    dtype: str
    shape: Shape
    data: memoryview


def write_shard(path: Path, blobs: Sequence[Blob]) -> Shard:
    """Write tensors to a safetensors file, durably, and return its size and sum.

    Args:
        path: of the file; it is there whole or not at all.
        blobs: what goes in. Wide elements go first, so that all are aligned and no gap is left.

    Raises:
        OSError: it could not be written.
        CheckpointError: an element type that the format has no name for.
    """
    ordered = sorted(blobs, key=lambda blob: (-element(blob.dtype)[1], blob.name))
    digest = hashlib.sha256()
    size = write_atomic(path, _summed(ordered, digest))
    return Shard(file=path.name, bytes=size, sha256=digest.hexdigest())


def _summed(blobs: Sequence[Blob], digest: Any) -> Iterator[Bytes]:
    for buffer in _buffers(blobs):
        digest.update(buffer)
        yield buffer


def _buffers(blobs: Sequence[Blob]) -> Iterator[Bytes]:
    yield _header(blobs)
    for blob in blobs:
        yield from chunks(blob.data)


def _header(blobs: Sequence[Blob]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for blob in blobs:
        start, end = end, end + len(blob.data)
        header[blob.name] = {
            "dtype": element(blob.dtype)[0],
            "shape": list(blob.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    room = -(-(len(text) + _LENGTH) // _ALIGNMENT) * _ALIGNMENT - _LENGTH
    return room.to_bytes(_LENGTH, "little") + text.ljust(room)
