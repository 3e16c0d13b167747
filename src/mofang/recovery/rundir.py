"""The run directory: where everything of an attempt lies, and writes that a crash cannot tear."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AttemptDir", "read_number", "replace_file", "worker_name"]


def worker_name(rank: int, generation: int) -> str:
    """Return the name that all files of one worker share."""
    return f"r{rank:04d}-g{generation:04d}"


@dataclass(frozen=True, slots=True)
class AttemptDir:
    """The files of one attempt; the run directory of the job is its parent."""

    path: Path

    @property
    def launch(self) -> Path:
        """The launch specification."""
        return self.path / "launch.json"

    @property
    def fence(self) -> Path:
        """The highest fence number granted to the job."""
        return self.path.parent / "fence"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints of the job, shared by its attempts."""
        return self.path.parent / "checkpoints"

    @property
    def generation(self) -> Path:
        """The number of the newest generation."""
        return self.path / "generation"

    @property
    def seats(self) -> Path:
        """Which nodes take part in the newest generations, where those are not all that were planned."""
        return self.path / "seats.json"

    @property
    def stop(self) -> Path:
        """Present when the attempt is to end."""
        return self.path / "stop"

    @property
    def outcome(self) -> Path:
        """The last word on the attempt."""
        return self.path / "outcome.json"

    @property
    def token(self) -> Path:
        """The secret that agents of one attempt know each other by."""
        return self.path / "token"

    @property
    def coordinator(self) -> Path:
        """Where the agent of node 0 listens."""
        return self.path / "coordinator.json"

    def agent_lock(self, node: int) -> Path:
        """Return the file that the living agent of a node holds locked; it contains the agent's process number."""
        return self.path / f"agent-{node:02d}.lock"

    def agent_log(self, node: int) -> Path:
        """Return the log of a node's agent."""
        return self.path / f"agent-{node:02d}.log"

    def agent_spool(self, node: int) -> Path:
        """Return the events of a node's agent."""
        return self.path / "spool" / f"agent-{node:02d}.jsonl"

    def advice(self, node: int) -> Path:
        """Return what the agent asks its workers for: one JSON object, replaced whole."""
        return self.path / f"advice-{node:02d}.json"

    def replica(self, node: int) -> Path:
        """Return where the node's snapshots are served: one JSON object of address and port."""
        return self.path / f"replica-{node:02d}.json"

    def telemetry(self, node: int) -> Path:
        """Return the time series of what was measured on a node."""
        return self.path / f"telemetry-{node:02d}.csv"

    def processes(self, node: int) -> Path:
        """Return the list of processes that were seen to belong to the attempt on a node."""
        return self.path / f"processes-{node:02d}"

    def segments(self, node: int) -> Path:
        """Return the list of shared-memory files that the workers of a node were seen to use."""
        return self.path / f"segments-{node:02d}"

    def spool(self, rank: int, generation: int) -> Path:
        """Return the events of a worker."""
        return self.path / "spool" / f"{worker_name(rank, generation)}.jsonl"

    def heartbeat(self, rank: int, generation: int) -> Path:
        """Return the sign of life of a worker."""
        return self.path / "heartbeat" / worker_name(rank, generation)

    def exit(self, rank: int, generation: int) -> Path:
        """Return how a worker ended."""
        return self.path / "exit" / f"{worker_name(rank, generation)}.json"

    def log(self, rank: int, generation: int) -> Path:
        """Return the output of a worker."""
        return self.path / "logs" / f"{worker_name(rank, generation)}.log"

    def prepare(self) -> None:
        """Make the directories; all are private to the user."""
        self.checkpoints.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        for name in ("spool", "heartbeat", "exit", "logs"):
            (self.path / name).mkdir(mode=0o700, exist_ok=True)


def replace_file(path: Path, text: str) -> None:
    """Write a private file so that after a crash either the old text or the new one is there, durably.

    Raises:
        OSError: it cannot be written; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_number(path: Path) -> int | None:
    """Return the whole number that a file holds, or None where there is no such file or number."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
