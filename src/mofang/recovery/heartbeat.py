"""A worker's sign of life: one fixed-width line, rewritten in place with one write. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SYNC", "TRAIN", "WIDTH", "Heartbeat", "format_heartbeat", "parse_heartbeat", "read_heartbeat"]

WIDTH = 64  # bytes; the modification time of the file is the time of the beat
TRAIN = "train"
SYNC = "sync"  # still training, but done with its own part of the step: from here it waits for others
_STEP, _PHASE = 19, 15  # bytes of the first two fields; the rest is the busy time


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """How far a worker is.

    ``step`` is the last finished step. ``phase`` is what it does: data, build, load, train, sync, validate, save,
    sample, export, or a program's own word. ``busy_s`` is the time that the newest step took without waiting for other
    workers, None where the program does not measure it.
    """

    step: int
    phase: str = TRAIN
    busy_s: float | None = None

    @property
    def trains(self) -> bool:
        """Whether it is in a training step, so that the times of earlier steps say how long it may take."""
        return self.phase in {TRAIN, SYNC}


def format_heartbeat(step: int, phase: str = TRAIN, busy_s: float | None = None) -> bytes:
    """Return the line: always ``WIDTH`` bytes, so that no rest of a longer one stays behind it."""
    busy = "-" if busy_s is None else f"{busy_s:.6g}"
    return f"{step:<{_STEP}} {phase[:_PHASE]:<{_PHASE}} {busy}".ljust(WIDTH - 1).encode() + b"\n"


def parse_heartbeat(line: bytes) -> Heartbeat | None:
    """Return what a line says; a step alone is a line too. None: it says nothing."""
    fields = line.split()
    try:
        step = int(fields[0])
        phase = fields[1].decode() if len(fields) > 1 else TRAIN
        busy = float(fields[2]) if len(fields) > 2 and fields[2] != b"-" else None
    except (ValueError, IndexError):
        return None
    return Heartbeat(step=step, phase=phase, busy_s=busy if busy is None or math.isfinite(busy) else None)


def read_heartbeat(path: Path) -> Heartbeat | None:
    """Return the newest heartbeat in a file; None where there is none."""
    try:
        with path.open("rb") as file:
            return parse_heartbeat(file.read(WIDTH))
    except OSError:
        return None
