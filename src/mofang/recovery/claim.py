"""Which snapshots in memory are this program's, where no agent says so: a name, a lock, and collecting dead ones.

A program that is started again finds its snapshots by the name of the run: given, torchrun's run id, or made of the
user, the working directory and the program. Every rank holds a lock file while it lives, so that a second program of
the same name is noticed, and what dead ones left can be told from what is in use.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from mofang.clock import Clock
from mofang.errors import ConflictError
from mofang.recovery.snapshot.place import SHARED_MEMORY

__all__ = ["Claim", "collect_dead", "run_name"]

_START = "mofang.run-"
_KEEP_S = 3600.0  # a program that died is given so long to be started again
_PATIENCE_S = 10.0  # for the processes of the last start to end
_POLL_S = 0.05
_LOCK = "lock.r"


def run_name(given: str, environ: Mapping[str, str]) -> str:
    """Return the name of this run, alike on all of its processes and after a restart."""
    run_id = environ.get("TORCHELASTIC_RUN_ID", "")
    text = given or (run_id if run_id != "none" else "")
    if not text:
        program = "\0".join((str(os.getuid()), str(Path.cwd()), sys.argv[0]))
        text = hashlib.sha256(program.encode()).hexdigest()[:16]
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)


class Claim:
    """This rank's right to the snapshots of a run; it ends with the process.

    Args:
        name: of the run.
        rank: of this process.
        clock: times the waiting.
        folder: where shared memory lives.

    Raises:
        ConflictError: another program of that name lives.
    """

    def __init__(self, name: str, rank: int, clock: Clock, folder: Path = SHARED_MEMORY) -> None:
        self.prefix = f"{_START}{name}."
        self._folder = folder
        self._path = folder / f"{self.prefix}{_LOCK}{rank:04d}"
        self._handle = self._lock(clock)

    def _lock(self, clock: Clock) -> int:
        until = clock.monotonic() + _PATIENCE_S
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(handle).st_nlink:  # else it was collected between the two calls
                    return handle
            except BlockingIOError:
                if clock.monotonic() >= until:
                    os.close(handle)
                    raise ConflictError(
                        f"another program has the snapshots {self.prefix!r} in use",
                        hint='give this one another name: Memory(name="...")',
                    ) from None
            os.close(handle)
            clock.sleep(_POLL_S)

    def touch(self) -> None:
        """Note that the run lives: what is kept of it after its death is counted from here."""
        os.utime(self._handle)

    def release(self, *, remove: bool) -> None:
        """Give the claim up.

        Args:
            remove: whether the work is done and nobody will go on from this rank's snapshots.
        """
        if remove:
            number = self._path.name.rpartition("r")[2]
            for path in self._folder.glob(f"{self.prefix}*.r{number}*"):
                path.unlink(missing_ok=True)
        os.close(self._handle)


def collect_dead(clock: Clock, *, but: str, folder: Path = SHARED_MEMORY) -> int:
    """Remove the snapshots of runs that died more than an hour ago; return how many files.

    Args:
        clock: the time.
        but: the prefix of a run to leave alone.
        folder: where shared memory lives.
    """
    removed = 0
    for prefix in {path.name.rpartition(_LOCK)[0] for path in folder.glob(f"{_START}*.{_LOCK}*")} - {but}:
        locks = list(folder.glob(f"{prefix}{_LOCK}*"))
        if all(_dead(path, clock) for path in locks):
            for path in [*folder.glob(f"{prefix}*"), *locks]:
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def _dead(path: Path, clock: Clock) -> bool:
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    except OSError:  # somebody else's
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return clock.now() - os.fstat(handle).st_mtime > _KEEP_S
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
