"""SIGTERM as a wish: noted when it comes, acted upon between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType

__all__ = ["STOPPED", "StopSignal"]

STOPPED = 128 + signal.SIGTERM  # the exit code of a program that saved and left when asked to


class StopSignal:
    """Whether this process was asked to stop.

    It listens only where the program does not: a handler of its own is left in place, and threads other than the main
    one cannot listen.
    """

    def __init__(self) -> None:
        self.asked = False
        free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        self._listening = free and threading.current_thread() is threading.main_thread()
        if self._listening:
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True

    def close(self) -> None:
        """Listen no more."""
        if self._listening and signal.getsignal(signal.SIGTERM) == self._ask:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._listening = False
