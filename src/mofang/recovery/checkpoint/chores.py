"""A quiet thread that does one thing after the other, and can be waited for. No torch."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Chores"]

T = TypeVar("T")

_NICENESS = 10  # training on the same core goes first


class Chores(Generic[T]):
    """Does items in the order in which they came, on a thread of low priority that ends with the process.

    Args:
        name: of the thread.
        do: does one item and returns whether that went well; reports its own failures.
        most: how many may wait; where there are more, the oldest is left out.
    """

    def __init__(self, name: str, do: Callable[[T], bool], *, most: int | None = None) -> None:
        self._name, self._do = name, do
        self._waiting: deque[T] = deque(maxlen=most)
        self._changed = threading.Condition()
        self._busy = self._closed = self._failed = False
        self._thread: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is being done or waits to be."""
        with self._changed:
            return self._is_idle()

    @property
    def waiting(self) -> int:
        """How many items wait."""
        with self._changed:
            return len(self._waiting)

    def put(self, item: T) -> None:
        """Have an item done; returns at once."""
        with self._changed:
            self._waiting.append(item)
            self._changed.notify_all()
            if self._thread is None:
                self._closed = False
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing is left to do; return whether it is so and the last item went well."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout_s) and not self._failed

    def close(self, timeout_s: float | None = None) -> bool:
        """Flush and end the thread; return what ``flush`` did."""
        well = self.flush(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, idle = self._thread, self._is_idle()
        if thread is not None and idle:
            thread.join()
            self._thread = None
        return well

    def _is_idle(self) -> bool:
        return not self._busy and not self._waiting

    def _work(self) -> None:
        with contextlib.suppress(OSError):  # where the kernel knows no priority of threads
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (batch := self._take()) is not None:
            well = False
            try:
                well = self._do(batch[0])
            finally:
                with self._changed:
                    self._busy, self._failed = False, not well
                    self._changed.notify_all()

    def _take(self) -> tuple[T] | None:
        """Wait for an item; return it, or None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._waiting))
            if not self._waiting:
                return None
            self._busy = True
            return (self._waiting.popleft(),)
