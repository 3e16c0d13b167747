"""Processes as /proc shows them: who descends from whom, who carries a marker, who is still there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "SERVICE",
    "Process",
    "ProcessTable",
    "environment_of",
    "find",
    "is_alive",
    "kill",
    "marked",
    "reap",
    "services",
]

SERVICE = "MOFANG_SERVICE"  # in the environment of what an agent starts for the whole attempt: what it does
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its number, and the clock tick it started at, because numbers are used again."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class _Row:
    process: Process
    parent: int
    state: str


def _row(pid: int) -> _Row | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = text.rpartition(b")")[2].split()  # the name before it may hold spaces and brackets
    return _Row(process=Process(pid, int(fields[19])), parent=int(fields[1]), state=fields[0].decode())


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208 - called many times a second


class ProcessTable:
    """All living processes at one moment; zombies are not alive."""

    def __init__(self, rows: Iterable[_Row]) -> None:
        self._rows = {row.process.pid: row for row in rows if row.state not in {"Z", "X"}}

    @classmethod
    def now(cls) -> ProcessTable:
        """Read the table from /proc."""
        return cls(row for pid in _pids() if (row := _row(pid)) is not None)

    def __contains__(self, process: Process) -> bool:
        row = self._rows.get(process.pid)
        return row is not None and row.process == process

    def descendants(self, roots: Iterable[int]) -> set[Process]:
        """Return every process below the roots, without the roots."""
        children: dict[int, list[int]] = {}
        for pid, row in self._rows.items():
            children.setdefault(row.parent, []).append(pid)
        found: set[Process] = set()
        waiting = list(roots)
        while waiting:
            for child in children.get(waiting.pop(), ()):
                if self._rows[child].process not in found:
                    found.add(self._rows[child].process)
                    waiting.append(child)
        return found


def is_alive(process: Process) -> bool:
    """Return whether the process is still there; a zombie is not."""
    row = _row(process.pid)
    return row is not None and row.process == process and row.state not in {"Z", "X"}


def find(pid: int) -> Process | None:
    """Return the living process of this number, if there is one."""
    row = _row(pid)
    return row.process if row is not None and row.state not in {"Z", "X"} else None


def environment_of(pid: int) -> Mapping[bytes, bytes]:
    """Return the environment that the process started with; empty where it cannot be read."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    return dict(item.partition(b"=")[::2] for item in text.split(b"\0") if b"=" in item)


def marked(marker: str, node: int | None = None) -> list[Process]:
    """Return every living process that carries the marker in its environment, this one left out.

    Args:
        marker: of the attempt.
        node: leave out what says that it belongs to another node of the attempt: nodes may share a machine. None: all.
    """
    wanted = f"MOFANG_MARKER={marker}".encode()
    own = f"MOFANG_NODE={node}".encode()
    found = []
    for pid in _pids():
        try:
            text = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if wanted in text and wanted in text.split(b"\0") and pid != os.getpid():
            if node is not None and b"\0MOFANG_NODE=" in text and own not in text.split(b"\0"):
                continue
            process = find(pid)
            found += [process] if process is not None else []
    return found


def services(processes: Iterable[Process]) -> set[Process]:
    """Return those that serve the whole attempt, not one generation: started as such, in a session of their own."""
    name = SERVICE.encode()
    return {process for process in processes if _leads(process.pid) and name in environment_of(process.pid)}


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def kill(processes: Iterable[Process], number: int = signal.SIGKILL) -> int:
    """Send a signal to those that are still there; return to how many."""
    sent = 0
    for process in processes:
        if is_alive(process):
            try:
                os.kill(process.pid, number)
            except (ProcessLookupError, PermissionError):
                continue
            sent += 1
    return sent


def reap() -> dict[int, int]:
    """Collect every child that has ended; return the wait status of each by process number."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status
