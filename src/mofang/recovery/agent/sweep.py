"""Leaving nothing behind: every process of an attempt on this node, and its shared memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mofang.clock import Clock
from mofang.recovery.processes import Process, ProcessTable, kill, marked
from mofang.recovery.segments import Segments

__all__ = ["Sweep"]

_PERIOD_S = 1.0
_CLEAN_PASSES = 2  # a process can fork while /proc is read


class Sweep:
    """Knows the processes of an attempt by three signs: the marker, the descent, and having been seen before.

    A process that cleared its environment is found by its descent from a shim, or from this agent once its shim is
    gone; one that was orphaned while no agent lived, because an earlier look remembered it.

    Args:
        marker: of the attempt.
        record: where the names of shared-memory files are kept.
        clock: the time.
    """

    def __init__(self, marker: str, record: Path, clock: Clock) -> None:
        self._marker, self._clock = marker, clock
        self._segments = Segments(marker, record)
        self._remembered: set[Process] = set()
        self._look_at = 0.0
        self._clean_passes = 0

    def watch(self, shims: Iterable[Process]) -> None:
        """Remember the descendants of the shims and the shared memory they map; about once a second."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _PERIOD_S
        table = ProcessTable.now()
        self._remembered = {process for process in self._remembered if process in table}
        self._remembered |= table.descendants([os.getpid(), *(shim.pid for shim in shims)])
        self._segments.watch(process.pid for process in self._remembered)

    def clean(self, shims: Iterable[Process]) -> bool:
        """Kill what is left; return whether nothing was found, twice in a row. Call it until then."""
        table = ProcessTable.now()
        keepers = {shim for shim in shims if shim in table}
        found = keepers | set(marked(self._marker)) | {process for process in self._remembered if process in table}
        found |= table.descendants([os.getpid(), *(process.pid for process in found)])
        self._segments.watch(process.pid for process in found)
        kill(found)
        self._clean_passes = 0 if found else self._clean_passes + 1
        if self._clean_passes < _CLEAN_PASSES:
            return False
        self._segments.remove()
        self._remembered, self._clean_passes, self._look_at = set(), 0, 0.0
        return True
