"""What a backend is asked to start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mofang.domain.job import marker
from mofang.domain.scenario import Environment, RestartPolicy

__all__ = ["LaunchSpec", "NodeLaunch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLaunch:
    """One node's part of an attempt: its workers and the devices they share. Spare nodes come last."""

    node: str
    address: str
    prefix: tuple[str, ...]
    accelerator: str
    device_indices: tuple[int, ...]
    workers: int
    domain: str = ""  # what it fails together with: its rack or switch; "" where that is unknown
    spare: bool = False  # takes part only once another node is lost
    hazard_per_s: float | None = None  # faults a second expected of it; None: as many as published fleets have


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """Everything needed to start one attempt; the same value is rendered for people and executed by the backend.

    ``argv`` is one worker's program. ``env`` holds what all workers share; the agent adds torchrun's variables (RANK,
    LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, NODE_RANK, MASTER_ADDR, MASTER_PORT) and Mofang's own. ``files`` maps
    names inside the attempt directory to text. ``secrets_file`` names a private file of NAME: value pairs, read by the
    agent.
    """

    job_id: str
    attempt: int
    fence: int
    run_dir: str  # of the job; the attempt's own directory lies inside it
    nodes: tuple[NodeLaunch, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    secrets_file: str | None = None
    environment: Environment = Environment()  # venv, modules, variables and mounts; secrets go by ``secrets_file``
    workdir: str | None = None  # where workers start; None: the attempt directory
    restart: RestartPolicy = RestartPolicy()
    grace_s: float = 10.0
    standby: bool = True  # keep a process on every node that has loaded the program's libraries, to fork workers from
    wake: tuple[str, ...] = ()  # the agent executes this when it finds no controller alive
    wake_socket: str = ""  # where a live controller listens

    @property
    def marker(self) -> str:
        """The text that every process of this attempt carries in its environment."""
        return marker(self.job_id, self.attempt)

    @property
    def attempt_dir(self) -> str:
        """The directory of this attempt."""
        return f"{self.run_dir}/attempt-{self.attempt:04d}"

    @property
    def world_size(self) -> int:
        """Number of workers over all nodes that are not spare."""
        return sum(node.workers for node in self.nodes if not node.spare)
