"""Jobs, their attempts, and the devices those hold."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mofang.domain.plan import Plan
from mofang.domain.reasons import Reason
from mofang.domain.scenario import Scenario

__all__ = ["Allocation", "Attempt", "AttemptState", "Job", "JobState", "NodeDevices", "marker"]


class JobState(StrEnum):
    """Where a job is in its life."""

    WAITING = "waiting"
    RUNNING = "running"  # an attempt exists
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        """Whether nothing will happen to the job any more."""
        return self in {JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED}


class AttemptState(StrEnum):
    """Where an attempt is in its life."""

    STARTING = "starting"  # committed, not yet seen running
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDevices:
    """The devices of one node that an attempt holds."""

    node: str
    accelerator: str
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The devices that an attempt holds."""

    cluster: str
    nodes: tuple[NodeDevices, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One allocation for a job. ``fence`` grows over all attempts of all jobs; ``number`` counts this job's from 1."""

    job_id: str
    number: int
    fence: int
    plan_index: int
    allocation: Allocation
    state: AttemptState = AttemptState.STARTING
    started_at: float = 0.0
    ended_at: float | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A submitted scenario and its frozen, ranked, feasible plans."""

    id: str
    name: str
    scenario: Scenario
    plans: tuple[Plan, ...]
    state: JobState = JobState.WAITING
    user: str = ""
    key: str = ""  # submitting twice with one key gives one job
    submitted_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    reason: Reason | None = None
    message: str = ""
    attempt: Attempt | None = None  # the latest


def marker(job_id: str, attempt: int) -> str:
    """Return the text that every process of an attempt carries in its environment as ``MOFANG_MARKER``."""
    return f"{job_id}.{attempt}"
