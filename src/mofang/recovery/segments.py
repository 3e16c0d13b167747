"""Shared-memory files: which ones an attempt used, and removing what it left.

Whoever makes a segment and wants it removed names it with ``MOFANG_SHM_PREFIX``. Programs that do not know the prefix
are watched: a file seen mapped by a process of the attempt is removed when nobody maps it any more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Segments", "arena_rank", "is_arena", "replica_name", "segment_prefix", "snapshot_name"]

_SHM = Path("/dev/shm")  # noqa: S108 - the place where POSIX shared memory lives
_DELETED = " (deleted)"
_ARENA = re.compile(r"(n\d{2,}\.)?(snapshot|replica)\.")  # after the attempt's prefix
_OF_A_NODE = re.compile(r"n(\d{2,})\.")
_NAME = re.compile(r"(snapshot|replica)\.r(\d{4,})(\.f[0-9a-f]+)?")  # after the node's prefix; one may replace another


def segment_prefix(marker: str, node: int | None = None) -> str:
    """Return what the names of an attempt's shared-memory segments start with.

    Args:
        marker: of the attempt.
        node: index of the node, in attempts of several: nodes that share a machine, such as containers and network
            namespaces, share its shared memory too. None: what the segments of all nodes start with.
    """
    return f"mofang.{marker}." if node is None else f"mofang.{marker}.n{node:02d}."


def snapshot_name(prefix: str, rank: int) -> str:
    """Return the name of the arena of a rank's own snapshots."""
    return f"{prefix}snapshot.r{rank:04d}"


def replica_name(prefix: str, rank: int) -> str:
    """Return the name of the arena of snapshots kept for a rank of another node."""
    return f"{prefix}replica.r{rank:04d}"


def arena_rank(prefix: str, name: str) -> tuple[str, int] | None:
    """Return the kind (``snapshot`` or ``replica``) and the rank that the name of an arena says; None: it is none."""
    if not name.startswith(prefix):
        return None
    found = _NAME.fullmatch(name, len(prefix))
    return (found[1], int(found[2])) if found is not None else None


def is_arena(marker: str, name: str) -> bool:
    """Return whether a segment, of any node of the attempt, outlives the generations in it."""
    start = segment_prefix(marker)
    return name.startswith(start) and _ARENA.match(name.removeprefix(start)) is not None


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
        node: index of the node; what is named for another one is left alone. None: nothing is left alone.
    """

    def __init__(self, marker: str, record: Path, node: int | None = None) -> None:
        self._marker, self._prefix, self._node = marker, segment_prefix(marker), node
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

    def remove(self, *, keep_arenas: bool = False) -> int:
        """Remove what the attempt left; return how many files. Call it when its processes are gone.

        Args:
            keep_arenas: whether another generation follows, which goes on from the snapshots in memory.
        """
        present = {path.name for path in _SHM.iterdir()} if _SHM.is_dir() else set()
        left = {name for name in present if name.startswith(self._prefix) and self._is_here(name)}
        if keep_arenas:
            left = {name for name in left if not is_arena(self._marker, name)}
        unclear = self._seen & present
        if unclear:
            left |= unclear - _mapped(int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
        for name in left:
            (_SHM / name).unlink(missing_ok=True)
        return len(left)

    def _is_here(self, name: str) -> bool:
        """Return whether a segment of the attempt does not say that it belongs to another node on this machine."""
        said = _OF_A_NODE.match(name, len(self._prefix))
        return self._node is None or said is None or int(said[1]) == self._node
