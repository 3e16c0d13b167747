"""Processes that were once seen to belong to an attempt, kept in a file for agents to come.

A process that cleared its environment and was orphaned while neither its shim nor an agent lived has no other sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from mofang.recovery.processes import Process, is_alive

__all__ = ["Remembered"]


class Remembered:
    """The processes of one attempt on one node that were seen and still live.

    Args:
        record: the file, one process a line: its number and the clock tick it started at.
    """

    def __init__(self, record: Path) -> None:
        self._record = record
        self._known = {process for process in _read(record) if is_alive(process)}

    def __iter__(self) -> Iterator[Process]:
        return iter(self._known)

    def add(self, processes: Iterable[Process]) -> None:
        """Remember these as well; on a full disk until this process ends."""
        fresh = set(processes) - self._known
        if not fresh:
            return
        self._known |= fresh
        with suppress(OSError), self._record.open("a") as file:
            file.writelines(f"{process.pid} {process.started}\n" for process in fresh)

    def keep(self, alive: Iterable[Process]) -> None:
        """Forget all that are not among these."""
        self._known &= set(alive)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
        with suppress(OSError):
            self._record.unlink(missing_ok=True)


def _read(record: Path) -> Iterator[Process]:
    try:
        lines = record.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        with suppress(ValueError):  # torn by a crash
            pid, started = map(int, line.split())
            yield Process(pid, started)
