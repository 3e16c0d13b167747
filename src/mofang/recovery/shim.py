"""The shim: one a worker; starts it, reaps its descendants and writes how it ended. It outlives the agent.

It runs as ``python -I -S shim.py NAME`` and imports nothing of Mofang, so that it starts in milliseconds. One JSON line
on standard input says what to run; when the agent dies before having written it, nothing is started. One JSON line on
standard output answers with the worker's process number and the shim's. A standby (standby.py) runs the same code in
copies of itself.

As a child subreaper (prctl(2)) it inherits every descendant of the worker, also those that left its session or cleared
their environment. When the worker ends, it writes the exit file first and then kills what is left.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_WRITE_TRIES = 10


def libc() -> ctypes.CDLL:
    """Return the C library."""
    return ctypes.CDLL(None, use_errno=True)


class Shim:
    """One worker's keeper.

    Args:
        order: argv, cwd, log, exit (paths) and cores (a list of core numbers, or null).
    """

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.libc = libc()
        self.worker = 0
        self.terminate = False

    def run(self) -> int:
        """Start the worker, wait for its end, clean up; return the worker's exit code, 128 + N for signal N."""
        self.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGTERM, self._forward)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        problem = self._start()
        _answer({"pid": self.worker if problem is None else None, "shim": os.getpid()})
        if problem is None:
            self._redirect()
        status = self._wait()
        end = _describe(status) if problem is None else problem
        self._write_exit({"pid": self.worker, **end})
        _kill_descendants()
        return int(end["exit_code"]) if end["exit_code"] is not None else 128 + int(end["signal"])

    def _forward(self, number: int, frame: object) -> None:
        self.terminate = True
        if self.worker:
            _signal_group(self.worker, number)

    def _start(self) -> dict[str, Any] | None:
        """Fork and execute the worker; return what went wrong, if something did."""
        reading, writing = os.pipe()  # closed by a successful exec
        parent = os.getpid()
        worker = os.fork()
        if worker == 0:
            os.close(reading)
            self._become_worker(parent, writing)
        os.close(writing)
        self.worker = worker
        with os.fdopen(reading, "rb") as pipe:
            problem = pipe.read()
        if self.terminate:
            _signal_group(worker, signal.SIGTERM)
        return json.loads(problem) if problem else None

    def _become_worker(self, parent: int, writing: int) -> NoReturn:
        argv, cwd = self.order["argv"], self.order["cwd"]
        message, kind = f"cannot open {self.order['log']}", "launch"
        try:
            os.setpgid(0, 0)
            self.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            self._redirect()
            message = f"cannot enter the working directory {cwd}"
            os.chdir(cwd)
            if self.order["cores"]:
                os.sched_setaffinity(0, self.order["cores"])
            message, kind = f"cannot execute {argv[0]}", "command-not-found"
            self._execute(writing)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            text = json.dumps({"exit_code": 127, "signal": None, "kind": kind, "message": f"{message}: {reason}"})
            os.write(writing, text.encode())
        os._exit(127)

    def _execute(self, writing: int) -> NoReturn:
        """Become the program; that closes ``writing``, on which the shim waits."""
        os.execvp(self.order["argv"][0], self.order["argv"])  # noqa: S606 - the user's own program, without a shell

    def _redirect(self) -> None:
        """Take nothing as input and the log as output."""
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(self.order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.close(null)
        os.close(log)

    def _wait(self) -> int:
        while True:
            child, status = os.waitpid(-1, 0)
            if child == self.worker:
                return status

    def _write_exit(self, end: dict[str, Any]) -> None:
        """Write the exit file durably; a full disk is tried for some seconds, then the exit status has to do."""
        path = self.order["exit"]
        for _ in range(_WRITE_TRIES):
            try:
                with os.fdopen(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                    file.write(json.dumps(end))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(path + ".new", path)  # noqa: PTH105 - pathlib costs a third of the start time
            except OSError:
                select.select([], [], [], 0.2)
            else:
                return


def _describe(status: int) -> dict[str, Any]:
    if os.WIFSIGNALED(status):
        return {"exit_code": None, "signal": os.WTERMSIG(status), "kind": "exit", "message": ""}
    return {"exit_code": os.WEXITSTATUS(status), "signal": None, "kind": "exit", "message": ""}


def _signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        try:
            os.kill(leader, number)  # the group is not made yet
        except ProcessLookupError:
            return


def _kill_descendants() -> None:
    while True:
        for process in _descendants(os.getpid()):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return  # every orphan below comes to this process, so no child means no descendant
        select.select([], [], [], 0.005)


def _descendants(root: int) -> list[int]:
    parents = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - as above
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
    found, last = set(), {root}
    while last:
        last = {process for process, parent in parents.items() if parent in last and process not in found}
        found |= last
    return list(found)


def _answer(reply: dict[str, Any]) -> None:
    try:
        os.write(1, json.dumps(reply).encode() + b"\n")
    except BrokenPipeError:
        return  # the agent died; the next one finds this process by its environment


def _read_order() -> bytes:
    text = b""
    while not text.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece:
            return b""
        text += piece
    return text


if __name__ == "__main__":
    line = _read_order()
    sys.exit(Shim(json.loads(line)).run() if line else 0)
