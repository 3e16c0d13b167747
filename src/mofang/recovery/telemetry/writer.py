"""A time series in a CSV file: appended line by line, and bounded.

The header is written again wherever the columns change (a device or a worker came or went), so every part of the file
can be read without the rest. A file that reaches its limit loses every other sample of its older half: it always
reaches back to the start, the longer ago the coarser.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["SeriesWriter"]

TIME = "time"
LIMIT_BYTES = 8 << 20  # about nine hours at full resolution on a node with eight devices


class SeriesWriter:
    """Appends samples; a full disk loses samples and never raises.

    Args:
        path: of the file; one that is there is continued.
        limit_bytes: the most that the file may have.
    """

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.path, self._limit = path, limit_bytes
        self._names: tuple[str, ...] | None = None
        self._descriptor: int | None = None

    def append(self, time: float, sample: Mapping[str, float]) -> None:
        """Append what was measured at a time; values keep six figures."""
        names = tuple(sorted(sample))
        line = ",".join([f"{time:.3f}", *(f"{sample[name]:.6g}" for name in names)]) + "\n"
        if names != self._names:
            line = "\n" + ",".join((TIME, *names)) + "\n" + line
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(self._descriptor, line.encode())
            self._names = names
            if os.fstat(self._descriptor).st_size > self._limit:
                self._thin()
        except OSError:
            self._names = None  # the header may be torn: write it again
            self.close()

    def close(self) -> None:
        """Close the file; appending opens it again."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def _thin(self) -> None:
        """Replace the file by one with every other sample of the older half left out; readers see either."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        half, kept, odd = len(lines) // 2, [], False
        for line in lines[:half]:
            is_sample = line[:1].isdigit()
            odd = is_sample and not odd
            if not is_sample or odd:
                kept.append(line)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.write_bytes(b"".join(kept + lines[half:]))
        temporary.chmod(0o600)
        temporary.replace(self.path)
        self.close()
