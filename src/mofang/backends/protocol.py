"""What every backend can do. Every call is safe to repeat."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from mofang.domain.hardware import Node
from mofang.domain.launch import LaunchSpec

__all__ = ["Artefact", "Backend", "Observation", "ObservedState"]


class ObservedState(StrEnum):
    """What a look at the world says of an attempt."""

    ABSENT = "absent"  # never started, or nothing is left and no outcome was written
    RUNNING = "running"  # every agent is alive
    AGENT_DEAD = "agent-dead"  # an agent is gone without having written an outcome
    ENDED = "ended"  # the outcome is written and no process is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """An attempt as it is found. ``dead_nodes`` names the nodes whose agents are gone."""

    state: ObservedState
    dead_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """Something that launching would make: a file with its text, or a command line."""

    name: str
    text: str


class Backend(Protocol):
    """One kind of place where jobs run."""

    name: str

    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes as they are now; one that cannot be reached is returned as down.

        Raises:
            BackendError: the backend as a whole cannot be reached.
        """

    def render(self, spec: LaunchSpec) -> tuple[Artefact, ...]:
        """Return exactly what ``launch`` would write and execute, secrets left out."""

    def launch(self, spec: LaunchSpec) -> None:
        """Start the attempt, or the agents of it that are missing; a newer fence number on the job refuses it.

        Raises:
            BackendError: a node cannot be reached or the agent cannot be started.
            ConflictError: a newer attempt of this job was already started.
        """

    def stop(self, spec: LaunchSpec) -> None:
        """Ask the attempt to end: SIGTERM, ``spec.grace_s`` seconds, SIGKILL. Returns at once."""

    def observe(self, spec: LaunchSpec) -> Observation:
        """Look at the attempt."""

    def clear(self, spec: LaunchSpec) -> int:
        """Kill every process that carries the attempt's marker, remove its shared memory; return their number."""
