"""Real agents over real processes, with a bound on every wait."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mofang.backends.local import LocalBackend
from mofang.clock import SystemClock
from mofang.domain.events import Event, EventKind
from mofang.domain.launch import LaunchSpec, NodeLaunch
from mofang.domain.scenario import RestartPolicy
from mofang.recovery.processes import marked
from mofang.recovery.rundir import AttemptDir, read_number
from mofang.recovery.spool import read_spool

LIMIT_S = 25.0


def _wait_until(what: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """Return the first true value; fail after the limit."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {limit_s} s")


@dataclass
class Attempt:
    """A running attempt and what can be seen of it."""

    spec: LaunchSpec
    backend: LocalBackend

    @property
    def directory(self) -> AttemptDir:
        return AttemptDir(Path(self.spec.attempt_dir))

    def launch(self) -> Attempt:
        self.backend.launch(self.spec)
        return self

    def outcome(self, limit_s: float = LIMIT_S) -> dict[str, Any]:
        _wait_until(self.directory.outcome.exists, limit_s)
        return json.loads(self.directory.outcome.read_text())

    def events(self, kind: EventKind | None = None, node: int = 0) -> list[Event]:
        events = read_spool(self.directory.agent_spool(node)).events
        return [event for event in events if kind is None or event.kind is kind]

    def agent_pid(self, node: int = 0) -> int:
        pid = read_number(self.directory.agent_lock(node))
        assert pid
        return pid

    def worker_pid(self, generation: int, rank: int = 0) -> int:
        def look() -> int:
            for event in self.events(EventKind.GENERATION_STARTED):
                if event.generation == generation:
                    return event.data["pids"][str(rank)]
            return 0

        return _wait_until(look)

    def kill_agent(self, node: int = 0) -> None:
        os.kill(self.agent_pid(node), signal.SIGKILL)

    def log(self, rank: int = 0, generation: int = 1) -> str:
        path = self.directory.log(rank, generation)
        return path.read_text() if path.exists() else ""


@pytest.fixture(name="wait_until")
def _wait() -> Callable[..., Any]:
    """Return the function that waits for something to become true."""
    return _wait_until


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Callable[..., Attempt]]:
    """Make attempts of Python programs; nothing of them is left after the test."""
    made: list[Attempt] = []

    def make(program: str, *, workers: int = 1, nodes: int = 1, spares: int = 0, **changes: Any) -> Attempt:
        number = len(made)
        argv = changes.pop("argv", (sys.executable, "-c", program))
        job = f"job{os.getpid()}x{number}{tmp_path.name[-12:].replace('-', '')}"
        spec = LaunchSpec(
            job_id=job,
            attempt=1,
            fence=1,
            run_dir=str(tmp_path / "runs" / job),
            nodes=tuple(
                NodeLaunch(
                    node=f"n{index}",
                    address="127.0.0.1",
                    prefix=(),
                    accelerator="cpu",
                    device_indices=(0, 1),
                    workers=workers,
                    spare=index >= nodes - spares,
                )
                for index in range(nodes)
            ),
            argv=argv,
            restart=changes.pop("restart", RestartPolicy()),
            grace_s=changes.pop("grace_s", 2.0),
        )
        made.append(Attempt(replace(spec, **changes), LocalBackend(tmp_path, SystemClock(), hosts=())))
        return made[-1]

    yield make
    for item in made:
        item.backend.clear(item.spec)
        assert not marked(item.spec.marker)
