"""Shared-memory files: which ones an attempt used, and removing what it left.

Whoever makes a segment and wants it removed names it with ``MOFANG_SHM_PREFIX``. Programs that do not know the prefix
are watched: a file seen mapped by a process of the attempt is removed when nobody maps it any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Segments", "segment_prefix"]

_SHM = Path("/dev/shm")  # noqa: S108 - the place where POSIX shared memory lives
_DELETED = " (deleted)"


def segment_prefix(marker: str) -> str:
    """Return what the names of an attempt's shared-memory segments start with."""
    return f"mofang.{marker}."


def _mapped(pids: Iterable[int]) -> set[str]:
    """Return the names below /dev/shm that these processes map."""
    found: set[str] = set()
    needle = f" {_SHM}/"
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/maps").read_text(errors="replace")
        except OSError:
            continue
        if needle in text:
            found |= {line.partition(needle)[2] for line in text.splitlines() if needle in line}
    return {name for name in found if not name.endswith(_DELETED)}


class Segments:
    """The shared memory of one attempt on one node.

    Args:
        marker: of the attempt.
        record: a file that keeps the names seen, for whoever cleans up after this process is gone.
    """

    def __init__(self, marker: str, record: Path) -> None:
        self._prefix = segment_prefix(marker)
        self._record = record
        self._seen = set(record.read_text().splitlines()) if record.exists() else set()

    def watch(self, pids: Iterable[int]) -> None:
        """Note what these processes, all of the attempt, map now."""
        fresh = {name for name in _mapped(pids) if not name.startswith(self._prefix)} - self._seen
        if not fresh:
            return
        self._seen |= fresh
        try:
            with self._record.open("a") as file:
                file.writelines(f"{name}\n" for name in sorted(fresh))
        except OSError:
            return  # a full disk: the names are kept in memory

    def remove(self) -> int:
        """Remove what the attempt left; return how many files. Call it when its processes are gone."""
        present = {path.name for path in _SHM.iterdir()} if _SHM.is_dir() else set()
        left = {name for name in present if name.startswith(self._prefix)}
        unclear = self._seen & present
        if unclear:
            left |= unclear - _mapped(int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
        for name in left:
            (_SHM / name).unlink(missing_ok=True)
        return len(left)
