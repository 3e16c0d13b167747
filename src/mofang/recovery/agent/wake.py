"""Starting the controller again when it died: agents outlive it, and somebody has to take their reports."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from mofang.clock import Clock

__all__ = ["Alarm", "become_subreaper", "start_detached"]

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.5
_DEAD_S = 2.0
_AGAIN_S = 10.0


def become_subreaper(wanted: int = 1) -> None:
    """Let orphaned descendants of this process come to it (prctl(2)); 0 sends them on as usual."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, wanted, 0, 0, 0)


def start_detached(argv: Sequence[str]) -> None:
    """Start a program that does not descend from this process any more when the call returns."""
    become_subreaper(0)
    try:
        middle = os.fork()
        if middle == 0:
            _exec_grandchild(argv)
        os.waitpid(middle, 0)
    finally:
        become_subreaper(1)


def _exec_grandchild(argv: Sequence[str]) -> None:
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.execvp(argv[0], list(argv))  # noqa: S606 - the controller, without a shell
    finally:
        os._exit(0)


class Alarm:
    """Watches the controller's socket; executes ``argv`` when nobody has answered for about two seconds.

    All agents of a user share a file beside the socket, so that one of them acts, and not too often.
    """

    def __init__(self, socket_path: str, argv: Sequence[str], clock: Clock) -> None:
        self._socket_path, self._argv, self._clock = socket_path, argv, clock
        self._answered_at = clock.monotonic()
        self._look_at = 0.0

    def tick(self) -> None:
        """Look, and act if it is time."""
        now = self._clock.monotonic()
        if not self._argv or now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        if self._answers():
            self._answered_at = now
        elif now - self._answered_at > _DEAD_S and self._my_turn():
            start_detached(self._argv)

    def _answers(self) -> bool:
        folder = -1
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_LOOK_S)
            try:
                # through the folder's descriptor, because the kernel takes no path longer than 107 bytes
                folder = os.open(Path(self._socket_path).parent, os.O_PATH | os.O_DIRECTORY)
                probe.connect(f"/proc/self/fd/{folder}/{Path(self._socket_path).name}")
            except OSError:
                return False
            finally:
                if folder >= 0:
                    os.close(folder)
        return True

    def _my_turn(self) -> bool:
        path = Path(self._socket_path + ".wake")
        try:
            with path.open("a+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.seek(0)
                if self._clock.now() - float(file.read() or 0) < _AGAIN_S:
                    return False
                file.truncate(0)
                file.write(str(self._clock.now()))
        except (OSError, ValueError):
            return False
        return True
