"""A probe that may hang (a driver whose device fell off the bus) asked from a thread that nobody waits for."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from mofang.clock import Clock
from mofang.recovery.telemetry.probe import Probe

__all__ = ["Detached"]


class Detached:
    """The same probe, one sample late: each call takes the newest answer and asks for the next.

    ``silent.NAME`` is for how many seconds no answer has come. That monitoring stops is itself a sign of a fault, and
    often the only one.
    """

    def __init__(self, name: str, probe: Probe, clock: Clock) -> None:
        self._column, self._probe, self._clock = f"silent.{name}", probe, clock
        self._asked = threading.Event()
        self._answer: tuple[float, Mapping[str, float]] | None = None
        self._began = clock.monotonic()
        threading.Thread(target=self._work, name=f"probe-{name}", daemon=True).start()

    def sample(self) -> Mapping[str, float]:
        """Return the newest answer, if there is one, and how old it is."""
        now = self._clock.monotonic()
        answer, self._answer = self._answer, None
        if answer is not None:
            self._began = answer[0]
        self._asked.set()
        silent = {self._column: max(now - self._began, 0.0)}
        return silent if answer is None else {**answer[1], **silent}

    def _work(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            found = self._probe.sample()
            self._answer = (self._clock.monotonic(), found)
