"""Starting shims, and finding those that an earlier agent started."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mofang.recovery.processes import Process, environment_of, find, marked

__all__ = ["ExitFile", "StartedShim", "find_shims", "read_exit", "shim_command", "start_shim"]

_SHIM = str(Path(__file__).parent.parent / "shim.py")
_ANSWER_S = 20.0
_DEFAULTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(slots=True)
class StartedShim:
    """A shim on its way: ``worker`` waits for its answer. ``process`` is None until then where a standby forks it."""

    process: Process | None
    _answers: int

    def worker(self, limit_s: float = _ANSWER_S) -> int:
        """Wait for the worker's start; return its process number, 0 where it could not be started."""
        text = b""
        try:
            while not text.endswith(b"\n") and select.select([self._answers], [], [], limit_s)[0]:
                piece = os.read(self._answers, 4096)
                if not piece:
                    break
                text += piece
        finally:
            os.close(self._answers)
        answer = json.loads(text) if text.endswith(b"\n") else {}
        if self.process is None and answer:
            self.process = find(answer["shim"]) or Process(answer["shim"], 0)
        return answer.get("pid") or 0


def shim_command(name: str) -> list[str]:
    """Return the command line of a shim."""
    return [sys.executable, "-I", "-S", _SHIM, name]


def start_shim(name: str, order: Mapping[str, Any], environment: Mapping[str, str]) -> StartedShim:
    """Start a shim in a session of its own and tell it what to run.

    Raises:
        OSError: no process can be started.
    """
    order_out, order_in = os.pipe()
    answer_out, answer_in = os.pipe()
    try:
        pid = os.posix_spawn(
            sys.executable,
            shim_command(name),
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, order_out, 0), (os.POSIX_SPAWN_DUP2, answer_in, 1)],
            setsid=True,
            setsigdef=_DEFAULTS,
        )
        process = find(pid) or Process(pid, 0)
        _write_all(order_in, json.dumps(order).encode() + b"\n")
    except OSError:
        os.close(answer_out)
        raise
    finally:
        for descriptor in (order_out, order_in, answer_in):
            os.close(descriptor)
    return StartedShim(process, answer_out)


def _write_all(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]


def find_shims(marker: str, generation: int) -> dict[int, Process]:
    """Return the living shims of a generation by rank."""
    found = {}
    for process in marked(marker):
        environment = environment_of(process.pid)
        if environment.get(b"MOFANG_GENERATION") == str(generation).encode() and _is_shim(process.pid):
            found[int(environment[b"RANK"])] = process
    return found


def _is_shim(pid: int) -> bool:
    """Return whether this is a shim, and not its child on the way to becoming the worker."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return _SHIM.encode() in arguments[:5] and os.getsid(pid) == pid
    except OSError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitFile:
    """How a worker ended, as its shim wrote it; ``time`` is seconds since the epoch."""

    exit_code: int | None
    signal: int | None
    kind: str
    message: str
    time: float


def read_exit(path: Path) -> ExitFile | None:
    """Return how a worker ended, or None while it has not."""
    try:
        record = json.loads(path.read_text())
        return ExitFile(
            exit_code=record["exit_code"],
            signal=record["signal"],
            kind=record["kind"],
            message=record["message"],
            time=path.stat().st_mtime,
        )
    except FileNotFoundError:
        return None
