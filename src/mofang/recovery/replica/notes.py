"""Reporting copies without filling the store: at once the first time, then what has come together since."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.recovery.replica.config import ServerConfig
from mofang.recovery.rundir import read_number
from mofang.recovery.spool import SpoolWriter

__all__ = ["Notes"]

_PERIOD_S = 30.0


@dataclass(slots=True, kw_only=True)
class _Sums:
    bytes: int = 0
    seconds: float = 0.0
    count: int = 0
    overtaken: int = 0
    said_at: float | None = None


class Notes:
    """Writes REPLICATED events to a spool of the server's own.

    Args:
        config: says where to; nowhere where it names no spool.
        clock: the time.
    """

    def __init__(self, config: ServerConfig, clock: Clock) -> None:
        self._node, self._generation, self._clock = config.node, config.generation, clock
        self._spool = None
        if config.spool:
            self._spool = SpoolWriter(
                Path(config.spool),
                job_id=config.job_id,
                attempt=config.attempt,
                source=f"replica-{config.node:02d}",
                clock=clock,
            )
        self._sums: dict[int, _Sums] = {}
        self._lock = Lock()

    def replicated(self, owner: int, step: int, num_bytes: int, seconds: float, *, apart: bool) -> None:
        """Note that all ranks' parts of a step have come from the owner, whole."""
        with self._lock:
            sums = self._sums.setdefault(owner, _Sums())
            sums.bytes, sums.seconds, sums.count = sums.bytes + num_bytes, sums.seconds + seconds, sums.count + 1
            now = self._clock.monotonic()
            if self._spool is None or (sums.said_at is not None and now - sums.said_at < _PERIOD_S):
                return
            data = {
                "node": self._node,
                "of": owner,
                "step": step,
                "bytes": sums.bytes,
                "seconds": sums.seconds,
                "count": sums.count,
                "overtaken": sums.overtaken,
                "apart": apart,
            }
            self._spool.append(EventKind.REPLICATED, read_number(Path(self._generation)) or 0, data)
            self._sums[owner] = _Sums(said_at=now)

    def overtaken(self, owner: int) -> None:
        """Note that a copy was lost because newer snapshots came too soon."""
        with self._lock:
            self._sums.setdefault(owner, _Sums()).overtaken += 1
