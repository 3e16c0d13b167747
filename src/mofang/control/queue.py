"""The waiting jobs: which start now, and why the others wait."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mofang.control.address import socket_path
from mofang.domain.codec import encode
from mofang.domain.job import Allocation, Attempt, Job, JobState
from mofang.domain.launch import LaunchSpec
from mofang.domain.plan import Plan
from mofang.domain.reasons import Reason
from mofang.errors import MofangError
from mofang.store import attempts, jobs
from mofang.store.endings import JobEnd
from mofang.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mofang.domain.hardware import Node
    from mofang.scheduling.decision import Decision, Start, Wait
    from mofang.scheduling.view import RunningJob, WaitingJob

__all__ = ["BuildLaunch", "Queue", "Started", "launch_from", "wake_words"]

_log = logging.getLogger(__name__)

_NOTES_AT_ONCE = 200


class BuildLaunch(Protocol):
    """How a plan becomes something that a backend can start: ``mofang.launchers.build.launch_spec``."""

    def __call__(
        self,
        *,
        job: Job,
        plan: Plan,
        attempt: Attempt,
        nodes: Mapping[str, Node],
        home: Path,
        wake: tuple[str, ...],
        wake_socket: str,
    ) -> LaunchSpec:
        """Return the launch specification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A job with the attempt that was committed for it, and what is to be launched."""

    job: Job
    spec: LaunchSpec


def launch_from(
    *,
    job: Job,
    plan: Plan,
    attempt: Attempt,
    nodes: Mapping[str, Node],
    home: Path,
    wake: tuple[str, ...],
    wake_socket: str,
) -> LaunchSpec:
    """Build a launch specification with the launchers, which are only imported when a job starts."""
    from mofang.launchers.build import launch_spec  # noqa: PLC0415 - a controller without a job never needs them

    return launch_spec(job=job, plan=plan, attempt=attempt, nodes=nodes, home=home, wake=wake, wake_socket=wake_socket)


def wake_words(home: Path) -> tuple[str, ...]:
    """Return the command that starts a controller of this home."""
    return (sys.executable, "-P", "-m", "mofang.control", "--home", str(home))


@dataclass(slots=True, kw_only=True)
class Queue:
    """Decides, commits starts, and remembers why each other job waits."""

    store: Store
    home: Path
    build: BuildLaunch
    waits: dict[str, Wait] = field(default_factory=dict)

    def turn(
        self,
        now: float,
        nodes: Sequence[Node],
        running: Sequence[RunningJob],
        waiting: Mapping[str, tuple[Job, float]],
    ) -> list[Started]:
        """Decide once; return the attempts that were committed and are now to be launched.

        Args:
            now: seconds since the epoch.
            nodes: the fleet.
            running: jobs that hold devices.
            waiting: jobs by id, each with the time before which it may not start.
        """
        decision = _decide(nodes, running, [_waiting(job, not_before) for job, not_before in waiting.values()], now)
        by_name = {node.name: node for node in nodes}
        started = [self._start(waiting[start.job_id][0], start, by_name, now) for start in decision.starts]
        self._note(decision.waits, waiting, now)
        return [each for each in started if each is not None]

    def _note(self, waits: Sequence[Wait], waiting: Mapping[str, tuple[Job, float]], now: float) -> None:
        before, self.waits = self.waits, {wait.job_id: wait for wait in waits}
        changed = []
        for wait in waits:
            known = before.get(wait.job_id)
            reason = known.reason if known is not None else waiting[wait.job_id][0].reason
            if wait.reason is not reason and wait.reason is not Reason.BACKOFF:
                changed.append(jobs.Waiting(job_id=wait.job_id, time=now, reason=wait.reason, message=wait.message))
        # A piece at a time: whoever submits meanwhile waits for one of them, not for all.
        for at in range(0, len(changed), _NOTES_AT_ONCE):
            self.store.write_all(jobs.note_waiting, changed[at : at + _NOTES_AT_ONCE])

    def _start(self, job: Job, start: Start, nodes: Mapping[str, Node], now: float) -> Started | None:
        plan = job.plans[start.plan_index]
        attempt = Attempt(
            job_id=job.id,
            number=1 if job.attempt is None else job.attempt.number + 1,
            fence=self.store.read(attempts.last_fence) + 1,
            plan_index=start.plan_index,
            allocation=start.allocation,
            started_at=now,
        )
        spec = self._spec(job, plan, attempt, nodes, now)
        if spec is None:
            return None
        item = attempts.Starting(
            job_id=job.id,
            number=attempt.number,
            fence=attempt.fence,
            plan_index=start.plan_index,
            allocation=encode(start.allocation),
            launch=encode(spec),
            devices=_devices(start.allocation),
            nodes=tuple(part.node for part in start.allocation.nodes),
            steps=plan.steps,
            time=now,
        )
        if not self.store.write(attempts.start, item):
            return None
        return Started(job=_with_attempt(job, attempt, now), spec=spec)

    def _spec(self, job: Job, plan: Plan, attempt: Attempt, nodes: Mapping[str, Node], now: float) -> LaunchSpec | None:
        """Return what to launch; a plan that cannot be launched ends its job."""
        try:
            return self.build(
                job=job,
                plan=plan,
                attempt=attempt,
                nodes=nodes,
                home=self.home,
                wake=wake_words(self.home),
                wake_socket=str(socket_path(self.home)),
            )
        except MofangError as error:
            message = error.message
        except Exception as error:
            _log.exception("a launch cannot be built", extra={"job": job.id})
            message = f"the launch cannot be built: {type(error).__name__}: {error}"
        end = JobEnd(job_id=job.id, attempt=0, time=now, state=JobState.FAILED, reason=Reason.LAUNCH, message=message)
        self.store.write(jobs.fail, end)
        return None


def _decide(
    nodes: Sequence[Node], running: Sequence[RunningJob], waiting: Sequence[WaitingJob], now: float
) -> Decision:
    from mofang.scheduling.decide import decide  # noqa: PLC0415 - numpy: only where a job waits
    from mofang.scheduling.view import View  # noqa: PLC0415

    return decide(View.build(nodes, running, waiting), now)


def _waiting(job: Job, not_before: float) -> WaitingJob:
    from mofang.scheduling.view import WaitingJob  # noqa: PLC0415 - numpy: only where a job waits

    return WaitingJob(
        id=job.id,
        submitted_at=job.submitted_at,
        plans=job.plans,
        priority=job.scenario.priority,
        not_before=not_before,
        spare_nodes=job.scenario.restart.spare_nodes,
    )


def _devices(allocation: Allocation) -> str:
    counts: dict[str, int] = {}
    for part in allocation.nodes:
        counts[part.accelerator] = counts.get(part.accelerator, 0) + len(part.indices)
    return ", ".join(f"{name}:{count}" for name, count in counts.items())


def _with_attempt(job: Job, attempt: Attempt, now: float) -> Job:
    started_at = now if job.started_at is None else job.started_at
    return replace(job, state=JobState.RUNNING, attempt=attempt, started_at=started_at, reason=None, message="")
