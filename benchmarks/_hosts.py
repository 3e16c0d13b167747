"""Hosts on one machine: network, process and mount namespaces of their own, so that a node can be lost whole.

Only root can make them. ``Hosts`` falls back to plain processes on loopback, where links cannot be cut and the loss of
a node is the death of its agent and its workers.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_INIT = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True: signal.pause()"
_ENTER = """#!/bin/sh
pid=$(cat {pid} 2>/dev/null) || {{ echo "host {name} is down" >&2; exit 1; }}
exec nsenter --target "$pid" --net --pid --mount -- "$@"
"""


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def can_make_hosts() -> bool:
    """Whether this process may make namespaces."""
    tools = all(shutil.which(tool) for tool in ("ip", "unshare", "nsenter"))
    if os.geteuid() != 0 or not tools:
        return False
    probe = ("unshare", "--net", "--pid", "--fork", "--mount", "--mount-proc", "true")
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


@dataclass(slots=True)
class Host:
    """One host: its prefix runs a command there, or says that it is down."""

    name: str
    address: str
    folder: Path
    bridge: str = ""  # empty: this machine itself
    _init: subprocess.Popen[bytes] | None = None

    @property
    def prefix(self) -> tuple[str, ...]:
        return (str(self.folder / self.name),) if self.bridge else ()

    @property
    def is_up(self) -> bool:
        return not self.bridge or self._pid.exists()

    @property
    def _pid(self) -> Path:
        return self.folder / f"{self.name}.pid"

    @property
    def _space(self) -> str:
        return f"{self.bridge}-{self.name}"

    @property
    def _link(self) -> str:
        return f"{self.bridge[-6:]}v{self.name}"

    def install(self, number: int) -> None:
        """Make the network namespace, its cable to the bridge, and the script that is the prefix."""
        _run("ip", "netns", "add", self._space)
        _run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._space)
        _run("ip", "link", "set", self._link, "master", self.bridge, "up")
        for command in (f"addr add {self.address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            _run("ip", "-n", self._space, *command.split())
        script = self.folder / self.name
        script.write_text(_ENTER.format(pid=self._pid, name=self.name))
        script.chmod(0o700)

    def boot(self) -> None:
        """Start the host: empty shared memory, no processes."""
        if not self.bridge:
            return
        shell = f"mount -t tmpfs -o size=2g tmpfs /dev/shm && exec {sys.executable} -I -S -c '{_INIT}'"
        argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--", "sh", "-c", shell]
        command = ["ip", "netns", "exec", self._space, *argv]
        self._init = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        pid = self._first_process(self._init.pid)
        while b"signal.pause" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.sched_yield()
        self._pid.write_text(f"{pid}\n")

    @staticmethod
    def _first_process(parent: int) -> int:
        while True:
            with suppress(OSError):
                if children := Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
                    return int(children[0])
            os.sched_yield()

    def link(self, *, up: bool) -> None:
        """Plug the cable in, or pull it."""
        _run("ip", "link", "set", self._link, "up" if up else "down")

    def power_off(self) -> None:
        """Take the power: nothing says good-bye, and the shared memory is gone."""
        if self._init is None:
            return
        self.link(up=False)
        pid = int(self._pid.read_text())
        self._pid.unlink()
        os.kill(pid, signal.SIGKILL)
        self._init.wait()
        self._init = None

    def processes(self) -> dict[int, int]:
        """Return this machine's numbers of the host's processes by their numbers there."""
        own = f"/proc/{self._pid.read_text().strip() if self.bridge else 'self'}/ns/pid"
        found = {}
        with suppress(OSError):
            space = Path(own).readlink()
            for path in Path("/proc").glob("[0-9]*"):
                with suppress(OSError, StopIteration):
                    if (path / "ns" / "pid").readlink() == space:
                        line = next(row for row in (path / "status").read_text().splitlines() if row[:6] == "NSpid:")
                        found[int(line.split()[-1])] = int(path.name)
        return found

    def segments(self, start: str) -> list[str]:
        """Return the names of shared-memory files that begin so."""
        if not self.is_up:
            return []
        argv = (*self.prefix, "ls", "/dev/shm")  # noqa: S108 - where POSIX shared memory lives
        return [name for name in _run(*argv).split() if name.startswith(start)]

    def remove(self) -> None:
        """Leave nothing of it."""
        if self.bridge:
            if self.is_up:
                self.power_off()
            subprocess.run(["ip", "netns", "del", self._space], check=False)


@dataclass(slots=True)
class Hosts:
    """Some hosts that reach each other; a context manager."""

    count: int
    folder: Path
    isolated: bool
    hosts: list[Host] = field(default_factory=list)
    _bridge: str = ""

    def __enter__(self) -> list[Host]:
        if not self.isolated:
            self.hosts = [Host(f"h{index}", "127.0.0.1", self.folder) for index in range(self.count)]
            return self.hosts
        self._bridge = f"mf{os.getpid() % 1_000_000}"
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "link", "set", self._bridge, "up")
        subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        for index in range(self.count):
            host = Host(f"h{index}", f"{subnet}.{index + 1}", self.folder, self._bridge)
            self.hosts.append(host)
            host.install(index)
            host.boot()
        return self.hosts

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.remove()
        if self._bridge:
            subprocess.run(["ip", "link", "del", self._bridge], check=False)
