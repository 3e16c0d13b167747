"""What a worker imports: who it is, where its things are, and how it reports.

>>> worker = Worker.from_environment()
>>> worker.heartbeat(step=1)
>>> worker.emit(EventKind.STEP, step=1, loss=5.5)

Outside Mofang the same calls do nothing, so a program runs by hand unchanged.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mofang.clock import Clock, SystemClock
from mofang.domain.events import EventKind
from mofang.recovery.heartbeat import TRAIN, format_heartbeat
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.spool import SpoolWriter

__all__ = ["EventKind", "Worker"]


class Worker:
    """One process of a job.

    Attributes:
        rank: its index among all workers.
        world_size: number of workers.
        local_rank: its index among the workers of its node.
        job_id: the job, or "" outside Mofang.
        attempt: the number of the attempt, from 1; 0 outside Mofang.
        generation: the number of the generation, from 1; 0 outside Mofang.
        attempt_dir: the attempt's directory, or None outside Mofang.
        checkpoint_dir: where the job keeps its checkpoints, or None where none is given.
        data_dir: where built data is kept, or None where none is given.
    """

    def __init__(self, environ: Mapping[str, str], clock: Clock) -> None:
        self.rank = int(environ.get("RANK", "0"))
        self.world_size = int(environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(environ.get("LOCAL_RANK", "0"))
        self.job_id = environ.get("MOFANG_JOB", "")
        self.attempt = int(environ.get("MOFANG_ATTEMPT", "0"))
        self.generation = int(environ.get("MOFANG_GENERATION", "0"))
        self.attempt_dir = _path(environ, "MOFANG_ATTEMPT_DIR")
        self.checkpoint_dir = _path(environ, "MOFANG_CHECKPOINT_DIR")
        self.data_dir = _path(environ, "MOFANG_DATA_DIR")
        self._heartbeat: int | None = None
        self._spool = self._open_spool(clock)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, clock: Clock | None = None) -> Worker:
        """Return the worker that the environment variables describe.

        Without ``environ`` it is this process: then SIGUSR2 writes the stacks of its threads to standard error, unless
        the program uses that signal itself. A process that is taken to hang is asked for them before it is killed.
        """
        if environ is None and "MOFANG_ATTEMPT_DIR" in os.environ:
            _show_stacks_when_asked()
        return cls(os.environ if environ is None else environ, clock or SystemClock())

    def emit(self, kind: EventKind, **data: Any) -> None:
        """Report an event; ``EventKind`` names the keys of each kind. A full disk delays it, and never raises."""
        if self._spool is not None:
            self._spool.append(kind, self.generation, data)

    def heartbeat(self, step: int, phase: str = TRAIN, busy_s: float | None = None) -> None:
        """Show progress; cheap enough for several times a step.

        Args:
            step: the last finished step.
            phase: what the program does now. While it trains, a pause that is long beside the times of earlier steps
                is taken for a hang; in any other phase (data, build, load, validate, save, export ...) only one longer
                than the job's ``hang_timeout`` is. So name a phase before what takes longer than a step, and come back
                to ``train`` after it.
            busy_s: seconds that this rank computed in the step before it waited for another rank; with these, one that
                is slower than the others is found.
        """
        if self.attempt_dir is None:
            return
        try:
            if self._heartbeat is None:
                path = AttemptDir(self.attempt_dir).heartbeat(self.rank, self.generation)
                self._heartbeat = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            os.pwrite(self._heartbeat, format_heartbeat(step, phase, busy_s), 0)
        except OSError:
            return  # a full disk must not stop the training; the next step tries again

    def _open_spool(self, clock: Clock) -> SpoolWriter | None:
        if self.attempt_dir is None:
            return None
        path = AttemptDir(self.attempt_dir).spool(self.rank, self.generation)
        return SpoolWriter(path, job_id=self.job_id, attempt=self.attempt, source=f"r{self.rank:04d}", clock=clock)


def _show_stacks_when_asked() -> None:
    if signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL:
        return
    try:
        faulthandler.register(signal.SIGUSR2, file=sys.__stderr__ or 2, all_threads=True)
    except (OSError, ValueError, RuntimeError):
        return  # standard error is closed: then there is nowhere to write to


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    text = environ.get(name)
    return Path(text) if text else None
