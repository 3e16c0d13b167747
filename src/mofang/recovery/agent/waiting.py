"""Waiting without looking again and again: the kernel says when a process ends or a message arrives."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable

from mofang.clock import Clock
from mofang.recovery.processes import Process, find

__all__ = ["Watch"]


class Watch:
    """Watches processes by their descriptors (pidfd_open(2)), each until it has ended.

    Args:
        clock: the time; on a kernel without such descriptors waiting is sleeping.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._descriptors: dict[Process, int] = {}
        self._ended: set[Process] = set()

    def wait(self, seconds: float, processes: Iterable[Process], descriptors: Iterable[int] = ()) -> bool:
        """Wait until the time is up, one of the processes ends or one of the descriptors can be read.

        Return whether something happened; the end of a process counts once.
        """
        poll = select.poll()
        watched = {self._open(process): process for process in self._only(processes)}
        for descriptor in (*watched, *descriptors):
            if descriptor >= 0:
                poll.register(descriptor, select.POLLIN)
        if -1 in watched:
            self._clock.sleep(min(seconds, 0.01))
            return False
        ready = [descriptor for descriptor, _ in poll.poll(seconds * 1000)]
        for descriptor in ready:
            if descriptor in watched:
                self._close(watched[descriptor])
        return bool(ready)

    def await_ends(self, seconds: float, processes: Iterable[Process]) -> None:
        """Wait until the time is up or all of the processes have ended."""
        end = self._clock.monotonic() + seconds
        left = set(processes)
        while left - self._ended and (rest := end - self._clock.monotonic()) > 0:
            self.wait(rest, left)

    def _only(self, processes: Iterable[Process]) -> list[Process]:
        """Forget all processes but these; return those that have not ended yet."""
        wanted = set(processes)
        self._ended &= wanted
        for process in [process for process in self._descriptors if process not in wanted]:
            os.close(self._descriptors.pop(process))
        return [process for process in wanted if process not in self._ended]

    def _open(self, process: Process) -> int:
        """Return the descriptor of a process; -1 where there is none to be had."""
        if process in self._descriptors:
            return self._descriptors[process]
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            self._ended.add(process)
            return -1
        except OSError:
            return -1
        if find(process.pid) != process:  # the number belongs to another one by now
            os.close(descriptor)
            self._ended.add(process)
            return -1
        self._descriptors[process] = descriptor
        return descriptor

    def _close(self, process: Process) -> None:
        self._ended.add(process)
        os.close(self._descriptors.pop(process))
