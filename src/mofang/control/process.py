"""Who this process is, and whether another one still lives; read from ``/proc``."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from mofang.store.leadership import Holder

__all__ = ["is_alive", "this_process"]


def this_process() -> Holder:
    """Return this process as a holder of leadership."""
    pid = os.getpid()
    return Holder(host=socket.gethostname(), boot=_boot(), pid=pid, start_ticks=_start_ticks(pid) or 0)


def is_alive(holder: Holder) -> bool:
    """Return whether a holder may still be there: one on another host may, until its lease expires."""
    if holder.host != socket.gethostname():
        return True
    return holder.boot == _boot() and _start_ticks(holder.pid) == holder.start_ticks


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_ticks(pid: int) -> int | None:
    """Return the start time of a living process; None where there is none, or only its zombie."""
    try:
        # The second field is the program's name in brackets, and may itself contain brackets and spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])
