"""What a process that hangs is doing, as far as the kernel and its own stacks tell."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

__all__ = ["ask_for_stacks", "describe", "is_stopped"]

_DUMP_BYTES = 65536
_STATES = {"T": "stopped by a signal", "t": "stopped by a debugger", "D": "waits for the kernel", "Z": "dead"}
_FRAME = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<function>.*)$')
_LIBRARY = re.compile(r"/(site|dist)-packages/|/lib/python3")


def is_stopped(pid: int) -> bool:
    """Return whether the process was stopped, so that it is surely not the one that waits for others."""
    return _state(pid) in {"T", "t", "Z"}


def ask_for_stacks(pid: int) -> bool:
    """Ask a process to write the stacks of its threads to its log; False: it would die of the signal, or is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")), 0)
    if not caught >> (signal.SIGUSR2 - 1) & 1:
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGUSR2)
    return True


def describe(pid: int, log: Path, start: int) -> str:
    """Return in a few words where a process is; "" where nothing can be seen.

    Args:
        pid: the process.
        log: where it writes its stacks when asked.
        start: how long the log was before it was asked.
    """
    state = _STATES.get(_state(pid), "")
    if state and not state.startswith("waits"):
        return state
    where = _stack(_after(log, start)) or _kernel_function(pid)
    return f"{state}, {where}" if state and where else state or where


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _kernel_function(pid: int) -> str:
    try:
        name = Path(f"/proc/{pid}/wchan").read_text().strip()
    except OSError:
        return ""
    return f"in the kernel's {name}" if name not in {"", "0"} else ""


def _after(log: Path, start: int) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(start)
            return file.read(_DUMP_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return []


def _stack(lines: list[str]) -> str:
    """Return the innermost frame of the main thread, and the innermost one that is no library's (faulthandler)."""
    begin = next((index for index, line in enumerate(lines) if line.startswith("Current thread")), None)
    if begin is None:
        return ""
    frames = []
    for line in lines[begin + 1 :]:
        if (frame := _FRAME.match(line)) is None:
            break
        frames.append(frame)
    own = next((frame for frame in frames if not _LIBRARY.search(frame["file"])), None)
    shown = [frame for frame in (frames[0] if frames else None, own) if frame is not None]
    names = [f"{frame['function']} ({Path(frame['file']).name}:{frame['line']})" for frame in shown]
    return "in " + ", called from ".join(dict.fromkeys(names)) if names else ""
