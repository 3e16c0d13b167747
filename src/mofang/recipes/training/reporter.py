"""What the recipe tells: events for Mofang, and the same as lines in the worker's log."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.recovery.worker import Worker

__all__ = ["Reporter"]

_EVERY_S = 0.5


class Reporter:
    """Rank 0 speaks for all ranks with ``tell``; ``report`` is for what only one rank knows."""

    def __init__(self, worker: Worker, clock: Clock) -> None:
        self._worker, self._clock = worker, clock
        self._shown = float("-inf")

    def report(self, kind: EventKind, **data: Any) -> None:
        """Emit an event of this rank."""
        self._worker.emit(kind, **data)
        sys.stdout.write(f"{kind} {json.dumps(data)}\n")
        sys.stdout.flush()

    def tell(self, kind: EventKind, **data: Any) -> None:
        """Emit an event of all ranks together, once."""
        if self._worker.rank == 0:
            self.report(kind, **data)

    def phase(self, name: str, done: int = 0, total: int = 0, detail: str = "") -> None:
        """Say what the run is busy with."""
        self.tell(EventKind.PHASE, name=name, done=done, total=total, detail=detail)

    def building(self, done: int, total: int, detail: str) -> None:
        """Show the progress of the token file, twice a second."""
        now = self._clock.monotonic()
        if now - self._shown >= _EVERY_S or done == total:
            self._shown = now
            self._worker.heartbeat(0)
            self.phase("data", done, total, detail)

    def refused(self, path: Path, message: str) -> None:
        """Say that a checkpoint cannot be used."""
        self.report(EventKind.CHECKPOINT_REFUSED, path=str(path), message=message)
