"""Events on their way to the controller: one JSON object a line, appended to a file in the run directory.

A line is written with one ``write`` to a file opened for appending. A crash can tear only the last line: the reader
waits for its end, and the next writer starts on a fresh line, whereby the torn one is skipped.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mofang.clock import Clock
from mofang.domain.events import Event, EventKind

__all__ = ["SpoolPage", "SpoolWriter", "read_spool"]

_MAX_PENDING = 1000  # lines kept in memory while the disk is full
_TAIL_BYTES = 1 << 20


class SpoolWriter:
    """Appends the events of one source; threads may share it.

    A full disk never stops the caller: lines wait in memory, the oldest go first when there are too many, and all that
    wait are written as soon as the disk takes them.
    """

    def __init__(self, path: Path, *, job_id: str, attempt: int, source: str, clock: Clock) -> None:
        self._path = path
        self._job_id, self._attempt, self._source = job_id, attempt, source
        self._clock = clock
        self._descriptor: int | None = None
        self._pending: deque[bytes] = deque(maxlen=_MAX_PENDING)
        self._torn = False
        self._lock = threading.RLock()
        self._sequence = _last_sequence(path)

    def append(self, kind: EventKind, generation: int, data: Mapping[str, Any]) -> bool:
        """Append one event; return whether it, and every one before it, has reached the file."""
        with self._lock:
            self._sequence += 1
            record = {
                "job_id": self._job_id,
                "attempt": self._attempt,
                "generation": generation,
                "source": self._source,
                "sequence": self._sequence,
                "time": self._clock.now(),
                "kind": str(kind),
                "data": _plain(data),
            }
            self._pending.append(json.dumps(record, separators=(",", ":")).encode() + b"\n")
            return self.flush()

    def flush(self) -> bool:
        """Write what waits; return whether nothing waits any more."""
        with self._lock:
            try:
                while self._pending:
                    self._write(self._pending[0])
                    self._pending.popleft()
            except OSError:
                return False
            return True

    def close(self) -> None:
        """Close the file; appending opens it again."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _write(self, line: bytes) -> None:
        if self._descriptor is None:
            self._torn = _ends_torn(self._path)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        whole = b"\n" + line if self._torn else line
        written = os.write(self._descriptor, whole)
        self._torn = written < len(whole)
        if self._torn:
            raise OSError("the line was cut short")


def _plain(value: Any) -> Any:
    """Return the value as strict JSON holds it: what is not finite becomes null, numbers of other libraries plain."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    item = getattr(value, "item", None)
    return _plain(item()) if callable(item) else str(value)


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read()
    except OSError:
        return b""


def _ends_torn(path: Path) -> bool:
    tail = _tail(path)
    return bool(tail) and not tail.endswith(b"\n")


def _last_sequence(path: Path) -> int:
    """Return the last sequence number in the file; a last line without its end counts if it is whole otherwise."""
    for line in reversed(_tail(path).split(b"\n")):
        event = _parse(line)
        if event is not None:
            return event.sequence
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolPage:
    """Events read from a spool, and the offset to go on from."""

    events: tuple[Event, ...]
    offset: int


def read_spool(path: Path, offset: int = 0, max_bytes: int = 1 << 20) -> SpoolPage:
    """Return the complete lines after ``offset``, about ``max_bytes`` of them; a missing file holds none.

    Lines that are not events (torn by a crash, or of a newer version) are skipped.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(max_bytes)
            if len(chunk) == max_bytes:
                chunk += file.readline()
    except FileNotFoundError:
        return SpoolPage(events=(), offset=offset)
    end = chunk.rfind(b"\n") + 1
    events = (_parse(line) for line in chunk[:end].split(b"\n"))
    return SpoolPage(events=tuple(event for event in events if event is not None), offset=offset + end)


def _parse(line: bytes) -> Event | None:
    try:
        record = json.loads(line)
        return Event(
            job_id=record["job_id"],
            attempt=int(record["attempt"]),
            generation=int(record["generation"]),
            source=record["source"],
            sequence=int(record["sequence"]),
            time=float(record["time"]),
            kind=EventKind(record["kind"]),
            data=record["data"],
        )
    except (ValueError, KeyError, TypeError):
        return None
