"""The workers of a node: how long their steps take, how much of that they compute, and their memory."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mofang.recovery.heartbeat import read_heartbeat
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.telemetry.reading import text_in

__all__ = ["WorkersProbe"]

_PAGE = resource.getpagesize()  # what statm counts in (proc(5))


@dataclass(slots=True, kw_only=True)
class _Beat:
    """A worker's heartbeat as it was last seen to change."""

    step: int
    time: float  # when it was written
    step_s: float = 0.0
    busy_s: float | None = None
    trains: bool = True


class WorkersProbe:
    """Columns ``rank.R.step_s`` (mean of the steps since the last look), ``.busy_s``, ``.silent_s`` and ``.memory``.

    Only training steps count: a validation or a checkpoint between two looks leaves ``step_s`` as it was.

    Args:
        directory: of the attempt.
        proc: the kernel's files of processes.
    """

    def __init__(self, directory: AttemptDir, proc: Path = Path("/proc")) -> None:
        self._directory, self._proc = directory, proc
        self._ranks: Mapping[int, int] = {}
        self._generation = 0
        self._beats: dict[int, _Beat] = {}

    def follow(self, generation: int, processes: Mapping[int, int]) -> None:
        """Look at these workers from now on: process numbers by rank."""
        if generation != self._generation:
            self._generation, self._beats = generation, {}
        self._ranks = processes

    def sample(self, now: float) -> Mapping[str, float]:
        """Return what the workers do at ``now``, in seconds since the epoch."""
        found: dict[str, float] = {}
        for rank, process in self._ranks.items():
            beat = self._look(rank)
            if beat is not None:
                found[f"rank.{rank}.silent_s"] = max(now - beat.time, 0.0)
                if beat.step_s > 0:
                    found[f"rank.{rank}.step_s"] = beat.step_s
                if beat.busy_s is not None:
                    found[f"rank.{rank}.busy_s"] = beat.busy_s
            words: Sequence[str] = text_in(self._proc / str(process) / "statm").split()
            if len(words) > 1:
                found[f"rank.{rank}.memory"] = float(words[1]) * _PAGE
        return found

    def _look(self, rank: int) -> _Beat | None:
        path = self._directory.heartbeat(rank, self._generation)
        known, read = self._beats.get(rank), read_heartbeat(path)
        try:
            written = path.stat().st_mtime_ns / 1e9
        except OSError:
            return known
        if read is None:
            return known
        beat = _Beat(step=read.step, time=written, busy_s=read.busy_s, trains=read.trains)
        if known is not None and read.step >= known.step:
            beat.step_s = known.step_s
            if read.step > known.step and read.trains and known.trains:
                beat.step_s = max(written - known.time, 0.0) / (read.step - known.step)
            elif read.step == known.step and read.trains:
                beat.time = known.time  # the same step still: from its end the next one is counted
        self._beats[rank] = beat
        return beat
