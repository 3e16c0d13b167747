"""The standby of a node as its agent sees it: starting it, ordering workers from it, noticing that it is gone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mofang.recovery.agent.shims import StartedShim, shim_command
from mofang.recovery.processes import SERVICE, Process, find, kill, marked, services

__all__ = ["Entry", "Standby", "entry_of"]

_PROGRAM = str(Path(__file__).parent.parent / "standby.py")
_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_FLAGS = {"-B", "-E", "-I", "-O", "-OO", "-P", "-b", "-q", "-s", "-u"}
_PADDING = 4096  # bytes for a command line or an environment that is longer than the standby's own
_HEADER = struct.Struct("!Q")
_SEND_S = 5.0
_MAX_ANSWER = 1 << 20
_DEFAULTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A command line that runs Python code: ``python [flags] -m target arguments`` or ``python [flags] target ...``."""

    interpreter: tuple[str, ...]  # with its flags
    module: bool
    target: str
    arguments: tuple[str, ...]


def entry_of(argv: Sequence[str]) -> Entry | None:
    """Return what a command line runs; None where it is not a module or script of Python's."""
    if not argv or _PYTHON.fullmatch(Path(argv[0]).name) is None:
        return None
    flags = 1
    while flags < len(argv) and argv[flags] in _FLAGS:
        flags += 1
    interpreter, rest = tuple(argv[:flags]), tuple(argv[flags:])
    match rest:
        case ("-m", target, *arguments):
            return Entry(interpreter=interpreter, module=True, target=target, arguments=tuple(arguments))
        case (target, *arguments) if target.endswith(".py") and not target.startswith("-"):
            return Entry(interpreter=interpreter, module=False, target=target, arguments=tuple(arguments))
    return None


class Standby:
    """A running standby.

    Attributes:
        process: the standby itself.
        ready: whether it takes orders.
        problem: why it never will, or not any more; None while nothing is known against it.
        refused: whether it is the program that cannot be forked, so that another try is useless.
        loaded: the modules that it has loaded.

    Args:
        entry: the program.
        cwd: the working directory of its workers.
        environment: of its workers, except for what differs from one to the next.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, entry: Entry, cwd: str, environment: Mapping[str, str]) -> None:
        self.ready = self.refused = False
        self.problem: str | None = None
        self.loaded: tuple[str, ...] = ()
        self._entry = asdict(entry)
        self._received = b""
        self._socket, theirs = socket.socketpair()
        try:
            self.process = _spawn(entry, theirs.fileno(), environment)
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self._send({"cwd": cwd, **self._entry})

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is news."""
        return self._socket.fileno()

    def poll(self) -> None:
        """Take in what the standby says, without waiting."""
        if self.problem is not None:
            return
        try:
            piece = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        self._received += piece
        if not piece or len(self._received) > _MAX_ANSWER:
            self._give_up("it died" if self.ready else "it died while it loaded the program's libraries")
        elif self._received.endswith(b"\n"):
            said = json.loads(self._received)
            self._received = b""
            self.loaded, self.ready = tuple(said["loaded"]), said["problem"] is None
            if not self.ready:
                self.refused = True
                self._give_up(said["problem"])

    def start_shim(self, name: str, order: Mapping[str, Any], environment: Mapping[str, str]) -> StartedShim:
        """Have a shim forked, and by it the worker.

        Raises:
            OSError: the standby takes no order any more.
        """
        reading, writing = os.pipe()
        whole = _coerced(environment)
        message = {**order, "entry": self._entry, "shim": shim_command(name), "environment": whole}
        try:
            self._send(message, writing)
        except OSError:
            os.close(reading)
            self._give_up("it died, or hangs")
            raise
        finally:
            os.close(writing)
        return StartedShim(None, reading)

    @staticmethod
    def copies(marker: str) -> list[Process]:
        """Return the copies of a standby of this attempt that are not shims yet."""
        found = {process for process in marked(marker) if _PROGRAM in _arguments(process.pid)[:12]}
        return list(found - services(found))

    def close(self) -> None:
        """End it; nothing is forked from it any more, but what it has begun to fork may still appear."""
        self._give_up(self.problem or "it was ended")

    def _send(self, message: Mapping[str, Any], descriptor: int | None = None) -> None:
        text = json.dumps(message).encode()
        self._socket.settimeout(_SEND_S)
        socket.send_fds(self._socket, [_HEADER.pack(len(text))], [] if descriptor is None else [descriptor])
        self._socket.sendall(text)
        self._socket.setblocking(False)

    def _give_up(self, problem: str) -> None:
        self.ready, self.problem = False, problem
        kill([self.process])
        self._socket.close()


def _coerced(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment as a shim that is started afresh hands it on: its interpreter avoids the C locale.

    Source: PEP 538.
    """
    locale = environment.get("LC_ALL") or environment.get("LC_CTYPE") or environment.get("LANG") or "C"
    if locale not in {"C", "POSIX"} or environment.get("LC_ALL"):
        return dict(environment)
    return {**environment, "LC_CTYPE": "C.UTF-8"}


def _arguments(pid: int) -> list[str]:
    try:
        return [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except OSError:
        return []


def _spawn(entry: Entry, channel: int, environment: Mapping[str, str]) -> Process:
    """Start the interpreter of the program on the standby's code."""
    found = shutil.which(entry.interpreter[0], path=environment.get("PATH", os.defpath))
    if found is None:
        raise FileNotFoundError(f"there is no {entry.interpreter[0]}")
    padding = "." * _PADDING
    pid = os.posix_spawn(
        found,
        [*entry.interpreter, _PROGRAM, str(os.getpid()), padding],
        {**_coerced(environment), SERVICE: "standby", "MOFANG_PADDING": padding},
        file_actions=[(os.POSIX_SPAWN_DUP2, channel, 0)],
        setsid=True,
        setsigdef=_DEFAULTS,
    )
    return find(pid) or Process(pid, 0)
