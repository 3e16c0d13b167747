"""Starting workers: forked from a standby that has loaded the program's libraries, or afresh where there is none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.launch import LaunchSpec
from mofang.errors import MofangError
from mofang.recovery.agent.environment import link_mounts, load_secrets, worker_command, worker_environment
from mofang.recovery.agent.shims import StartedShim, find_shims, start_shim
from mofang.recovery.agent.standby import Standby, entry_of
from mofang.recovery.processes import Process, ProcessTable, kill
from mofang.recovery.spool import SpoolWriter

__all__ = ["Starter"]

_PATIENCE_S = 20.0  # what a generation waits for a standby that still loads; it would load the same itself
_ANSWER_S = 3.0
_AGAIN_S = (1.0, 5.0, 30.0, 120.0)  # before the next try; after the last one there is none
_SETTLE_S = 0.02


class Starter:
    """Starts the workers of one node.

    Args:
        spec: the attempt.
        node: the index of this node.
        spool: where events go.
        clock: the time.
    """

    def __init__(self, spec: LaunchSpec, node: int, spool: SpoolWriter, clock: Clock) -> None:
        self._spec, self._node, self._spool, self._clock = spec, node, spool, clock
        self._entry = entry_of(worker_command(spec)) if spec.standby else None
        self._standby: Standby | None = None
        self._since = self._again_at = 0.0
        self._tries = 0
        self._told = False

    @property
    def is_loading(self) -> bool:
        """Whether a generation that is to be started had better wait."""
        standby = self._standby
        if standby is None or standby.ready or standby.problem is not None:
            return False
        return self._clock.monotonic() - self._since < _PATIENCE_S

    def descriptors(self) -> list[int]:
        """Return what becomes readable when there is news."""
        return [self._standby.fileno()] if self._standby is not None and self._standby.problem is None else []

    def open(self) -> None:
        """Start a standby, where the program is one that can be forked."""
        if self._entry is None:
            return
        self._since = self._clock.monotonic()
        self._told = False
        try:
            self._standby = Standby(self._entry, self._workdir(), self._environment())
        except (MofangError, OSError) as error:
            self._again(str(error), 0)

    def poll(self, generation: int) -> None:
        """Look after the standby; one that died is started again after a while."""
        standby = self._standby
        if standby is None:
            if self._again_at and self._clock.monotonic() >= self._again_at:
                self._again_at = 0.0
                self.open()
            return
        standby.poll()
        if standby.problem is not None:
            self._standby = None
            if not standby.refused:
                self._again(standby.problem, generation)
            elif standby.loaded:  # else there was nothing to gain
                self._note(generation, ready=False, message=standby.problem)
        elif standby.ready and not self._told:
            self._told = True
            self._note(generation, ready=True, message="loaded " + ", ".join(standby.loaded))

    def start(self, name: str, order: Mapping[str, Any], environment: Mapping[str, str]) -> StartedShim:
        """Start a worker's shim.

        Raises:
            OSError: no process can be started.
        """
        if self._standby is not None and self._standby.ready:
            with suppress(OSError):
                return self._standby.start_shim(name, order, environment)
        return start_shim(name, order, environment)

    def worker(
        self, shim: StartedShim, name: str, order: Mapping[str, Any], environment: Mapping[str, str]
    ) -> tuple[Process, int]:
        """Wait for the worker's start; return its shim and its process number, 0 where it could not be started.

        A standby that does not answer is given up, and the worker is started afresh.

        Raises:
            OSError: no process can be started.
        """
        forked = shim.process is None
        worker = shim.worker(_ANSWER_S) if forked else shim.worker()
        if shim.process is None:
            self._abandon(int(environment["MOFANG_GENERATION"]), int(environment["RANK"]))
            shim = start_shim(name, order, environment)
            worker = shim.worker()
        return shim.process or Process(0, 0), worker

    def close(self) -> None:
        """End the standby."""
        self._again_at = 0.0
        if self._standby is not None:
            self._standby.close()
            self._standby = None

    def _abandon(self, generation: int, rank: int) -> None:
        """Kill a standby that does not answer, and what it may have begun to start for this rank."""
        standby = self._standby
        if standby is not None:
            standby.close()
            self._standby = None
            self._again("it did not answer", generation)
        clean = 0
        while clean < 2:  # a process can fork while /proc is read
            late = find_shims(self._spec.marker, generation).get(rank)
            found = [late] if late is not None else []
            found += Standby.copies(self._spec.marker)
            found += ProcessTable.now().descendants(process.pid for process in found)
            kill(found)
            clean = 0 if found else clean + 1
            self._clock.sleep(_SETTLE_S)

    def _again(self, problem: str, generation: int) -> None:
        """Say what happened, and plan the next try."""
        more = self._tries < len(_AGAIN_S)
        if more:
            self._again_at = self._clock.monotonic() + _AGAIN_S[self._tries]
        self._tries += 1
        end = "it is started again" if more else "it is not tried again"
        self._note(generation, ready=False, message=f"{problem}; {end}")

    def _note(self, generation: int, *, ready: bool, message: str) -> None:
        seconds = round(self._clock.monotonic() - self._since, 3)
        data = {"node": self._node, "ready": ready, "seconds": seconds, "message": message}
        self._spool.append(EventKind.STANDBY, generation, data)

    def _workdir(self) -> str:
        workdir = Path(self._spec.workdir or self._spec.attempt_dir)
        link_mounts(self._spec, workdir)
        return str(workdir)

    def _environment(self) -> dict[str, str]:
        return worker_environment(
            self._spec,
            base=os.environ,
            node=self._node,
            local_rank=0,
            generation=0,
            meeting=("", 0),
            secrets=load_secrets(self._spec.secrets_file),
            nodes=(self._node,),
        )
