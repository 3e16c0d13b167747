"""Text to train on: the files, in the order in which they make up one stream."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mofang.errors import DataError
from mofang.spec.data import text_files

__all__ = ["SourceFile", "find_sources"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One text file. ``name`` is what its place in the stream follows from; ``stamp`` changes when the file does."""

    path: Path
    name: str
    bytes: int
    stamp: int


def find_sources(paths: Sequence[str]) -> tuple[SourceFile, ...]:
    """Return the files with something in them, in an order that looks random and depends on their names alone.

    Neighbours in a folder are much alike; an order by the hash of the name makes every stretch of the stream, so also
    the part kept for validation, a fair sample of all of it. Names count from the folder that holds all the files, so
    that the order is the same wherever they lie.

    Raises:
        DataError: a path does not exist or cannot be read, or there is no text at all.
    """
    files = text_files(paths)
    base = os.path.commonpath([file.parent for file in files]) if files else ""
    sources = (_source(Path(base), file) for file in files)
    found = [source for source in sources if source.bytes]
    if not found:
        raise DataError(f"there is no text in {', '.join(paths)}", hint="give files that are not empty")
    return tuple(sorted(found, key=lambda source: (hashlib.sha256(source.name.encode()).digest(), source.path)))


def _source(base: Path, file: Path) -> SourceFile:
    try:
        status = file.stat()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", hint="may you read it?") from error
    name = file.relative_to(base).as_posix()
    return SourceFile(path=file, name=name, bytes=status.st_size, stamp=status.st_mtime_ns)
