"""The thread that turns the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Thread

from mofang.control.loop import Loop
from mofang.errors import NotLeaderError, StoreError

__all__ = ["Driver"]

_log = logging.getLogger(__name__)

_BREATH_S = 0.01  # between turns: what comes in meanwhile is taken together
_AFTER_ERROR_S = 1.0


class Driver:
    """Turns the loop when something is due or has come in, until it is stopped.

    Args:
        loop: the loop.
        lost: called when another controller leads.
    """

    def __init__(self, loop: Loop, lost: Callable[[], object]) -> None:
        self._loop = loop
        self._lost = lost
        self._woken = Event()
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="loop", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Turn soon. Any thread may call this."""
        self._woken.set()

    def stop(self) -> None:
        """Finish the turn in progress, and end."""
        self._stopping.set()
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        fresh = True
        while not self._stopping.is_set():
            try:
                if fresh:
                    self._loop.load()
                    fresh = False
                self._woken.clear()
                pause = self._loop.turn()
            except NotLeaderError:
                self._lost()
                return
            except StoreError as error:
                _log.error("%s", error.message, extra={"hint": error.hint})
                fresh, pause = True, _AFTER_ERROR_S
            except Exception:
                _log.exception("the loop failed; it starts again from the store")
                fresh, pause = True, _AFTER_ERROR_S
            self._stopping.wait(_AFTER_ERROR_S if fresh else _BREATH_S)
            self._woken.wait(pause)
