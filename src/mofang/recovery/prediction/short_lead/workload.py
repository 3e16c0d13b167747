"""A small training-like program that can be made to degrade: ``python -m ...workload FOLDER RANK RANKS CONTROL``.

It multiplies matrices, waits for the other ranks after every step, shows progress by heartbeats as every worker does,
and writes to disk now and then. The control file, mapped by both sides, says what goes wrong: see :class:`Control`.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mofang.clock import SystemClock
from mofang.recovery.heartbeat import SYNC, Heartbeat, read_heartbeat
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.worker import Worker

__all__ = ["Control", "main"]

_FORM = struct.Struct("<ddd")
_SIZE = 160  # of the matrices: a step of some milliseconds
_CHUNK = 1 << 20
_REPEATS = 3.0  # of the multiplication in one step
_NOTHING = Heartbeat(step=0)
_SAVE_EVERY = 100  # steps
_SAVE_BYTES = 256 << 10


class Control:
    """What one worker is to suffer: ``slower`` (extra work, in steps), ``leak`` (bytes held), ``pause`` (seconds).

    Args:
        path: of the file; it is made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, _FORM.size)
        self._mapped = mmap.mmap(descriptor, _FORM.size)
        os.close(descriptor)

    def set(self, *, slower: float, leak: float, pause: float) -> None:
        """Say what the worker is to suffer from now on."""
        _FORM.pack_into(self._mapped, 0, slower, leak, pause)

    def get(self) -> Mapping[str, float]:
        """Return what is to be suffered."""
        return dict(zip(("slower", "leak", "pause"), _FORM.unpack_from(self._mapped, 0), strict=True))


def main(words: list[str]) -> int:
    """Work until killed."""
    directory, rank, ranks, path = words
    control, clock = Control(Path(path)), SystemClock()
    worker = Worker({"RANK": rank, "MOFANG_ATTEMPT_DIR": directory, "MOFANG_GENERATION": "1"}, clock)
    others = [AttemptDir(Path(directory)).heartbeat(other, 1) for other in range(int(ranks)) if other != int(rank)]
    matrix = np.random.default_rng(int(rank)).standard_normal((_SIZE, _SIZE))
    held: list[bytearray] = []
    step, owed = 0, 0.0
    while True:
        wish, begin = control.get(), clock.monotonic()
        owed += _REPEATS * (1.0 + wish["slower"])
        for _ in range(int(owed)):
            np.tanh(matrix @ matrix / _SIZE)
        owed -= int(owed)
        while len(held) * _CHUNK < wish["leak"]:
            held.append(bytearray(os.urandom(16) * (_CHUNK // 16)))
        step += 1
        if step % _SAVE_EVERY == 0 or wish["pause"] > 0:
            worker.heartbeat(step - 1, "save")
            clock.sleep(wish["pause"])
            _save(Path(directory, f"state-{rank}"))
        worker.heartbeat(step, SYNC, clock.monotonic() - begin)
        while any((read_heartbeat(other) or _NOTHING).step < step for other in others):
            clock.sleep(0.0002)


def _save(path: Path) -> None:
    with path.open("wb") as file:
        file.write(bytes(_SAVE_BYTES))
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
