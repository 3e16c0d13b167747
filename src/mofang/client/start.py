"""Starting a controller where none answers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mofang.clock import Clock, SystemClock
from mofang.control.address import log_path
from mofang.errors import BackendError, MofangError, error_from_wire

__all__ = ["start_controller"]

T = TypeVar("T")

_PATIENCE_S = 30.0
_POLL_S = 0.02


def start_controller(home: Path, reach: Callable[[], T], clock: Clock | None = None) -> T:
    """Start a controller, detached from this terminal, and return what ``reach`` gives once it answers.

    Raises:
        BackendError: it could not be started, or does not answer in time.
        MofangError: what it ended with, where it said so.
    """
    clock = clock or SystemClock()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        before = _size(log_path(home))
        pid = _spawn(home)
    except OSError as error:
        raise BackendError(
            f"cannot start the controller in {home}: {error.strerror or error}",
            hint="set MOFANG_HOME to a folder that you can write to",
        ) from error
    give_up = clock.monotonic() + _PATIENCE_S
    while clock.monotonic() < give_up:
        try:
            return reach()
        except (ConnectionError, FileNotFoundError):
            clock.sleep(_POLL_S)
        code, pid = _exit_code(pid)
        # Exit code 0 says that another one leads already: then its socket is what we wait for.
        if code:
            raise _failed(home, before, f"the controller ended at once (exit code {code})")
    raise _failed(home, before, f"the controller has not answered for {_PATIENCE_S:.0f} s")


def _spawn(home: Path) -> int:
    log = os.open(log_path(home), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "mofang.control", "--home", str(home)],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, source, target) for source, target in ((nothing, 0), (log, 1), (log, 2))
            ],
            setsid=True,
        )
    finally:
        os.close(log)
        os.close(nothing)


def _exit_code(pid: int) -> tuple[int, int]:
    """Return the exit code of our child (0 while it runs), and its pid, 0 once it has been reaped."""
    if not pid:
        return 0, 0
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # the program around us reaps its children itself
        return 0, 0
    return (os.waitstatus_to_exitcode(status), 0) if found else (0, pid)


def _failed(home: Path, before: int, what: str) -> MofangError:
    """Return the controller's own last error where it wrote one, else the last line of its log."""
    last = _last_line(log_path(home), before)
    try:
        record = json.loads(last)
        if "error" in record:
            return error_from_wire(record["error"])
        tail = str(record["message"])
    except (ValueError, KeyError, TypeError):
        tail = last[:300]
    return BackendError(f"{what}{': ' + tail if tail else ''}", hint=f"see {log_path(home)}")


def _last_line(path: Path, before: int) -> str:
    """Return the last line that was written after the first ``before`` bytes; the log's own ones say most."""
    try:
        lines = path.read_bytes()[before:].decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    logged = [line for line in lines if line.startswith("{")]
    return (logged or lines or [""])[-1]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
