"""Faults at the calls that reach the disk: the k-th of them fails, or is the last one of the process."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

CALLS = ("write", "fsync", "replace", "mkdir")

Instead = Callable[..., Any]


class Calls:
    """Counts the calls, and has call number ``at`` do something else.

    Args:
        at: from 1; None: only count.
        instead: called with the real function and its arguments.
    """

    def __init__(self, at: int | None = None, instead: Instead | None = None) -> None:
        self.count, self._at, self._instead = 0, at, instead
        self._lock = threading.Lock()

    def _wrap(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self.count += 1
                hit = self.count == self._at
            return self._instead(real, *args, **kwargs) if hit and self._instead else real(*args, **kwargs)

        return call

    @contextmanager
    def installed(self) -> Iterator[Calls]:
        """Have the calls of this process counted."""
        with mock.patch.multiple(os, **{name: self._wrap(name) for name in CALLS}):
            yield self


def _half(real: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Let a write get half as far as it would."""
    if real.__name__ == "write":
        real(args[0], args[1][: len(args[1]) // 2])


def no_space(real: Callable[..., Any], *args: Any, **_: Any) -> Any:
    """Fail as a disk that becomes full."""
    _half(real, args)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed(real: Callable[..., Any], *args: Any, **_: Any) -> Any:
    """Be killed."""
    _half(real, args)
    os.kill(os.getpid(), signal.SIGKILL)
