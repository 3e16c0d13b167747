"""The twin of a backend: attempts that live in memory, driven by a clock, for tests and simulation.

It writes what an agent would write (spool, outcome), refuses what a backend refuses, and remembers every start, so that
a test can ask whether anything ran twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

from mofang.backends.protocol import Artefact, Observation, ObservedState
from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.hardware import CPU, Device, Node
from mofang.domain.launch import LaunchSpec
from mofang.domain.reasons import Reason
from mofang.errors import BackendError, ConflictError
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.spool import SpoolWriter

__all__ = ["MemoryBackend", "Run", "Script"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What an attempt does: this many steps in this many seconds, then this outcome."""

    seconds: float = 1.0
    steps: int = 0
    reason: Reason = Reason.COMPLETED
    message: str = ""


@dataclass(slots=True, kw_only=True)
class Run:
    """One attempt as it really went. ``ended_at`` None: it runs."""

    spec: LaunchSpec
    script: Script
    started_at: float
    agent_alive: bool = True
    ended_at: float | None = None
    outcome: Reason | None = None
    steps_done: int = 0


class MemoryBackend:
    """A backend whose nodes and processes are values.

    Args:
        nodes: the fleet; ``nodes`` may be replaced at any time.
        clock: what its attempts run by.
        name: the name of the backend.
        default: what an attempt does that has no script of its own.

    ``scripts`` holds, by job, one script for each attempt in turn. ``faults`` makes the next calls of a method fail:
    ``backend.faults["launch"] = 2``. ``runs`` is everything that was ever started.
    """

    def __init__(
        self, nodes: Sequence[Node], clock: Clock, *, name: str = "memory", default: Script | None = None
    ) -> None:
        self.name = name
        self.fleet = tuple(nodes)
        self.default = default or Script()
        self.scripts: dict[str, list[Script]] = {}
        self.faults: Counter[str] = Counter()
        self.runs: dict[str, Run] = {}
        self._clock = clock
        self._fences: dict[str, int] = {}
        self._lock = RLock()  # the controller calls from several threads

    @classmethod
    def of_cores(cls, cores: int, clock: Clock) -> MemoryBackend:
        """Return a twin with one node of this many cores."""
        devices = tuple(Device(index=index, accelerator=CPU) for index in range(cores))
        node = Node(name="memory-0", cluster="memory", devices=devices, cores=cores, memory_bytes=16 * 10**9)
        return cls([node], clock)

    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes."""
        self._fault("nodes")
        return self.fleet

    def render(self, spec: LaunchSpec) -> tuple[Artefact, ...]:
        """Return the command line of a worker and the files of the launch."""
        files = [Artefact(name=name, text=text) for name, text in spec.files.items()]
        return (Artefact(name="command", text=" ".join(spec.argv)), *files)

    def launch(self, spec: LaunchSpec) -> None:
        """Start the attempt, or its agent again."""
        with self._lock:
            self._fault("launch")
            if spec.fence < self._fences.get(spec.job_id, 0):
                raise ConflictError(f"a newer attempt of {spec.job_id} was started")
            self._fences[spec.job_id] = spec.fence
            run = self.runs.get(spec.marker)
            if run is None:
                self.runs[spec.marker] = self._begin(spec)
            elif run.ended_at is None:
                run.agent_alive = True

    def stop(self, spec: LaunchSpec) -> None:
        """End the attempt as a user's stop does."""
        with self._lock:
            self._fault("stop")
            run = self._advanced(spec)
            if run is not None and run.ended_at is None:
                self._end(run, Reason.STOPPED_BY_USER, "stopped")

    def observe(self, spec: LaunchSpec) -> Observation:
        """Look at the attempt."""
        with self._lock:
            self._fault("observe")
            run = self._advanced(spec)
            if run is None or (run.ended_at is not None and run.outcome is None):
                return Observation(state=ObservedState.ABSENT)
            if run.ended_at is not None:
                return Observation(state=ObservedState.ENDED)
            if run.agent_alive:
                return Observation(state=ObservedState.RUNNING)
            return Observation(state=ObservedState.AGENT_DEAD, dead_nodes=tuple(node.node for node in spec.nodes))

    def clear(self, spec: LaunchSpec) -> int:
        """Kill what is left of the attempt."""
        with self._lock:
            self._fault("clear")
            run = self.runs.get(spec.marker)
            if run is None or run.ended_at is not None:
                return 0
            run.ended_at = self._clock.now()
            return spec.world_size

    def kill_agent(self, marker: str) -> None:
        """Kill the agent of an attempt; its workers go on, and their outcome waits for the next agent."""
        with self._lock:
            run = self.runs.get(marker)
            if run is not None and run.ended_at is None:
                run.agent_alive = False

    def lose(self, marker: str, reason: Reason = Reason.NODE_LOST) -> None:
        """End a running attempt with this outcome."""
        with self._lock:
            run = self.runs.get(marker)
            if run is not None and run.ended_at is None:
                self._end(run, reason, f"scripted {reason.value}")

    def running(self) -> list[Run]:
        """Return the attempts whose workers run now."""
        with self._lock:
            for run in self.runs.values():
                self._advance(run)
            return [run for run in self.runs.values() if run.ended_at is None]

    def _begin(self, spec: LaunchSpec) -> Run:
        scripts = self.scripts.get(spec.job_id, [])
        script = scripts.pop(0) if scripts else self.default
        directory = AttemptDir(Path(spec.attempt_dir))
        directory.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.prepare()
        run = Run(spec=spec, script=script, started_at=self._clock.now())
        self._say(run, EventKind.GENERATION_STARTED, {"workers": spec.world_size})
        return run

    def _advanced(self, spec: LaunchSpec) -> Run | None:
        run = self.runs.get(spec.marker)
        if run is not None:
            self._advance(run)
        return run

    def _advance(self, run: Run) -> None:
        """Bring an attempt to the present; without an agent nobody notices that its workers have ended."""
        if run.ended_at is not None or not run.agent_alive:
            return
        elapsed, script = self._clock.now() - run.started_at, run.script
        done = script.steps if elapsed >= script.seconds else int(script.steps * elapsed / script.seconds)
        for step in range(run.steps_done + 1, done + 1):
            step_time = script.seconds / script.steps
            self._say(run, EventKind.STEP, {"step": step, "loss": 5.0 / step, "step_time_s": step_time}, "r0000")
        run.steps_done = done
        if elapsed >= script.seconds:
            self._end(run, script.reason, script.message)

    def _end(self, run: Run, reason: Reason, message: str) -> None:
        run.ended_at, run.outcome, run.agent_alive = self._clock.now(), reason, False
        self._say(run, EventKind.OUTCOME, {"reason": reason.value, "message": message})
        outcome = AttemptDir(Path(run.spec.attempt_dir)).outcome
        outcome.write_text(json.dumps({"reason": reason.value, "message": message}))

    def _say(self, run: Run, kind: EventKind, data: Mapping[str, object], source: str = "agent-00") -> None:
        directory = AttemptDir(Path(run.spec.attempt_dir))
        path = directory.agent_spool(0) if source == "agent-00" else directory.spool(0, 1)
        spool = SpoolWriter(path, job_id=run.spec.job_id, attempt=run.spec.attempt, source=source, clock=self._clock)
        spool.append(kind, 1, data)
        spool.close()

    def _fault(self, method: str) -> None:
        with self._lock:
            if self.faults[method] > 0:
                self.faults[method] -= 1
                raise BackendError(f"scripted fault of {method}", hint="this is a test")
