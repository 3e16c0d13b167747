"""End an attempt by force: ``python -m mofang.recovery.clear ATTEMPT_DIR NODE MARKER`` prints how many were killed."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

from mofang.clock import Clock, SystemClock
from mofang.errors import BackendError
from mofang.recovery.processes import Process, ProcessTable, find, is_alive, kill, marked
from mofang.recovery.remembered import Remembered
from mofang.recovery.rundir import AttemptDir, read_number
from mofang.recovery.segments import Segments

__all__ = ["clear_attempt", "living_agent"]

_PERIOD_S = 0.01
_PATIENCE_S = 30.0


def living_agent(directory: AttemptDir, node: int) -> bool:
    """Return whether an agent holds the lock of this node."""
    try:
        descriptor = os.open(directory.agent_lock(node), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def clear_attempt(directory: AttemptDir, node: int, marker: str, clock: Clock) -> int:
    """Kill the node's agent and every process of the attempt, until none is left; return how many were killed.

    Raises:
        BackendError: something cannot be killed.
    """
    give_up = clock.monotonic() + _PATIENCE_S
    killed: set[Process] = set()
    segments, remembered = Segments(marker, directory.segments(node)), Remembered(directory.processes(node))
    while True:
        agent = find(read_number(directory.agent_lock(node)) or 0) if living_agent(directory, node) else None
        found = marked(marker) + [process for process in remembered if is_alive(process)]
        found += ProcessTable.now().descendants(process.pid for process in found)
        segments.watch(process.pid for process in found)
        found += [agent] if agent is not None else []
        if not found:
            break
        if clock.monotonic() > give_up:
            raise BackendError(
                f"{len(found)} processes of {marker} cannot be killed", hint="they wait for a disk or a GPU"
            )
        kill(found)
        killed |= set(found)
        clock.sleep(_PERIOD_S)
    segments.remove()
    return len(killed)


if __name__ == "__main__":
    path, number, text = sys.argv[1:]
    print(clear_attempt(AttemptDir(Path(path)), int(number), text, SystemClock()))  # noqa: T201 - read by the backend
