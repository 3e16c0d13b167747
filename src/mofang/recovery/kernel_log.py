"""What the kernel says of the machine while workers run: memory that ran out, GPU errors, broken disks.

/dev/kmsg gives one record a read: ``priority,sequence,microseconds,flags;text`` (Documentation/ABI/testing/dev-kmsg).
Where it may not be read (most containers), nothing is known from here and the rest has to do.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from mofang.clock import Clock
from mofang.domain.reasons import Reason

__all__ = ["Fact", "KernelLog", "read_line"]

_KMSG = Path("/dev/kmsg")
_RECORD_BYTES = 8192
_MOST_READS = 2000  # in one look, so that a flood does not keep the agent from its workers
_KEPT = 64
_XID = re.compile(r"NVRM: Xid \((?P<device>[^)]*)\): (?P<code>\d+)")
_KILLED = re.compile(r"Killed process (?P<pid>\d+) ")
_DISK = re.compile(
    r"I/O error, dev |Buffer I/O error|critical medium error|EXT4-fs error|XFS .*(Corruption|I/O Error)"
    r"|[Rr]emounting filesystem read-only|nvme\S*(:| ).*(controller is down|timeout|abort)"
)
_MACHINE_CHECK = re.compile(r"mce: \[Hardware Error\]|EDAC .* (CE|UE) |AER: .*error")
_COUNTED = {"xid": _XID, "kernel.disk_errors": _DISK, "kernel.machine_checks": _MACHINE_CHECK}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that the kernel said, read at ``time``. ``grave``: the device is at fault, not the program."""

    reason: Reason
    text: str
    grave: bool
    pid: int | None = None
    time: float = 0.0


class KernelLog:
    """Reads what is new in the kernel log, keeps what matters of it, and counts what may foretell a fault.

    Args:
        clock: the time, by which what was read is told apart.
        path: of the log; another one in tests.
    """

    def __init__(self, clock: Clock, path: Path = _KMSG) -> None:
        self._clock = clock
        self._facts: deque[Fact] = deque(maxlen=_KEPT)
        self._counts = dict.fromkeys(_COUNTED, 0.0)
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._descriptor, 0, os.SEEK_END)  # what happened before is not ours
        except OSError:
            self.close()

    def look(self) -> None:
        """Take in what is new; never waits."""
        for _ in range(_MOST_READS if self._descriptor is not None else 0):
            line = self._next()
            if line is None:
                return
            for name, form in _COUNTED.items():
                self._counts[name] += form.search(line) is not None
            fact = read_line(line, self._clock.now())
            if fact is not None:
                self._facts.append(fact)

    def since(self, time: float) -> list[Fact]:
        """Return what was read at this time (seconds since the epoch) or later, the oldest first."""
        return [fact for fact in self._facts if fact.time >= time]

    @property
    def counts(self) -> Mapping[str, float]:
        """How often each kind of fault was told of since the log was opened, by column; none where it is not read."""
        return dict(self._counts) if self._descriptor is not None else {}

    def close(self) -> None:
        """Read no more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _next(self) -> str | None:
        """Return the next record; None where there is none yet. Records lost to an overrun are skipped."""
        if self._descriptor is None:
            return None
        try:
            raw = os.read(self._descriptor, _RECORD_BYTES)
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.EAGAIN}:
                self.close()
            return "" if error.errno == errno.EPIPE else None
        return raw.decode(errors="replace") if raw else None


def read_line(line: str, now: float = 0.0) -> Fact | None:
    """Return what a record of the kernel log means for a job; None: nothing."""
    text = line.partition(";")[2].partition("\n")[0] or line.strip()
    if (found := _XID.search(text)) is not None:
        name, who = _codes().get(found["code"], ("unknown error", "watch"))
        said = f"XID {found['code']} ({name}) on {found['device']}"
        reason = Reason.WORKER_FAILED if who in {"user", "watch"} else Reason.DEVICE_ERROR
        return Fact(reason=reason, text=said, grave=who == "reset", time=now)
    if (found := _KILLED.search(text)) is not None:
        return Fact(reason=Reason.MEMORY, text=text, grave=False, pid=int(found["pid"]), time=now)
    if _DISK.search(text):
        return Fact(reason=Reason.DISK_ERROR, text=text, grave=True, time=now)
    return None


@cache
def _codes() -> dict[str, tuple[str, str]]:
    file = resources.files("mofang.recovery").joinpath("data/xid.json")
    return {code: (name, who) for code, (name, who) in json.loads(file.read_text(encoding="utf-8"))["codes"].items()}
