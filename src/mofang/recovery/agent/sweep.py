"""Leaving nothing behind: every process of an attempt on this node, and its shared memory."""

from __future__ import annotations

import os
from collections.abc import Iterable

from mofang.clock import Clock
from mofang.recovery.processes import Process, ProcessTable, kill, marked, services
from mofang.recovery.remembered import Remembered
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.segments import Segments

__all__ = ["Sweep"]

_PERIOD_S = 1.0
_CLEAN_PASSES = 2  # a process can fork while /proc is read


class Sweep:
    """Knows the processes of an attempt by three signs: the marker, the descent, and having been seen before.

    A process that cleared its environment is found by its descent from a shim, or from this agent once its shim is
    gone; one that was orphaned while no agent lived, because an earlier look remembered it.

    Between generations the services of the attempt and the snapshots in memory stay; at its end nothing does.

    Args:
        marker: of the attempt.
        directory: of the attempt; what was seen is recorded there, for the next agent.
        clock: the time.
        node: the index of this node; what says that it belongs to another is left alone.
    """

    def __init__(self, marker: str, directory: AttemptDir, clock: Clock, node: int) -> None:
        self._marker, self._clock, self._node = marker, clock, node
        self._segments = Segments(marker, directory.segments(node), node)
        self._remembered = Remembered(directory.processes(node))
        self._look_at = 0.0
        self.dying: frozenset[Process] = frozenset()  # what the last look killed

    def watch(self, shims: Iterable[Process]) -> None:
        """Remember the descendants of the shims and the shared memory they map; about once a second."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _PERIOD_S
        table = ProcessTable.now()
        self._remembered.keep([process for process in self._remembered if process in table])
        self._remembered.add(table.descendants([os.getpid(), *(shim.pid for shim in shims)]))
        self._segments.watch(process.pid for process in self._remembered)

    def clean(self, shims: Iterable[Process], *, last: bool) -> bool:
        """Kill what is left; return whether nothing was found, twice in a row. Call it until then.

        Args:
            shims: those of the generation.
            last: whether no generation follows.
        """
        keepers = list(shims)
        for _ in range(_CLEAN_PASSES):
            found = self._left(keepers)
            found -= set() if last else services(found)
            self.dying = frozenset(found)
            if found:
                self._segments.watch(process.pid for process in found)
                kill(found)
                return False
        self._segments.remove(keep_arenas=not last)
        self._remembered.clear()
        self._look_at = 0.0
        return True

    def left(self) -> bool:
        """Whether a process of a generation is still there, as the marker shows; services of the attempt are none."""
        found = set(marked(self._marker, self._node))
        return bool(found - services(found))

    def _left(self, shims: Iterable[Process]) -> set[Process]:
        table = ProcessTable.now()
        found = {process for process in (*shims, *self._remembered) if process in table}
        found |= set(marked(self._marker, self._node))
        return found | table.descendants([os.getpid(), *(process.pid for process in found)])
