"""What a ``Checkpointer`` says: events for Mofang, and a line on standard error where people should know."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mofang.domain.events import EventKind
from mofang.recovery.durable import Durable
from mofang.recovery.session import Session

__all__ = ["Teller"]

_REPORT_S = 10.0


@dataclass(slots=True)
class _Tally:
    """Snapshots since the last report."""

    count: int = 0
    step: int = -1
    stall_s: float = 0.0
    bytes: int = 0


class Teller:
    """Speaks for one rank, or, as rank 0, for all of them.

    Args:
        session: of this rank.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tally, self._every = _Tally(), 0
        self._reported_at = session.clock.monotonic()

    def taken(self, step: int, stall_s: float) -> None:
        """Note a snapshot."""
        tally = self._tally
        self._every = step - tally.step if tally.step >= 0 else self._every
        tally.count, tally.step, tally.stall_s = tally.count + 1, step, tally.stall_s + stall_s

    def committed(self, size: int) -> None:
        """Note that so many bytes are committed; called in the background."""
        self._tally.bytes += size

    def report(self, durable: Durable | None, *, force: bool = False) -> None:
        """Pass on what happened in the background; snapshots are summed up."""
        while durable is not None and not durable.happenings.empty():
            kind, data = durable.happenings.get()
            failed = kind is EventKind.CHECKPOINT_FAILED
            self.tell(kind, f"step {data['step']} is not saved: {data['message']}" if failed else "", data)
        now, tally = self._session.clock.monotonic(), self._tally
        if tally.count and (force or now - self._reported_at >= _REPORT_S):
            self._tally, self._reported_at = _Tally(step=tally.step), now
            data = {"step": tally.step, "count": tally.count, "bytes": tally.bytes, "stall_s": tally.stall_s}
            self.tell(EventKind.SNAPSHOT, "", data | {"every_steps": self._every})

    def tell(self, kind: EventKind | None, line: str, data: Mapping[str, Any]) -> None:
        """Say something once for all ranks."""
        if self._session.peers.rank == 0:
            if kind is not None:
                self._session.worker.emit(kind, **data)
            if line:
                _print(line)

    def refused(self, path: Path, message: str) -> None:
        """Say what this rank cannot use."""
        self._session.worker.emit(EventKind.CHECKPOINT_REFUSED, path=str(path), message=message)
        _print(f"{path.name} is refused: {message}")


def _print(line: str) -> None:
    sys.stderr.write(f"mofang: {line}\n")
    sys.stderr.flush()
