"""Attempts: committed with their launch before anything is launched, ended together with what becomes of the job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from mofang.domain.codec import decode
from mofang.domain.events import EventKind
from mofang.domain.job import Allocation, Attempt, AttemptState, JobState
from mofang.domain.launch import LaunchSpec
from mofang.domain.reasons import Reason
from mofang.store import measurements
from mofang.store.endings import JobEnd, finish
from mofang.store.events import record
from mofang.store.tables import attempts, jobs, plain_rows
from mofang.store.writer import one_by_one

__all__ = [
    "Ending",
    "Restarted",
    "Starting",
    "end",
    "history",
    "last_fence",
    "latest",
    "launch_of",
    "mark_running",
    "note_restart",
    "start",
    "start_step",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """An attempt about to be made. ``allocation`` and ``launch`` are encoded; ``devices`` is for people."""

    job_id: str
    number: int
    fence: int
    plan_index: int
    allocation: str
    launch: str
    devices: str
    nodes: tuple[str, ...]
    steps: int | None
    time: float


@one_by_one
def start(connection: Connection, item: Starting) -> bool:
    """Commit an attempt of a job that waits; return False, and write nothing, where it no longer does."""
    values = {
        "state": JobState.RUNNING.value,
        "reason": None,
        "message": "",
        "devices": item.devices,
        "steps": item.steps,
        "not_before": None,
        "started_at": func.coalesce(jobs.c.started_at, item.time),
    }
    waits = (jobs.c.id == item.job_id, jobs.c.state == JobState.WAITING.value)
    if not connection.execute(update(jobs).where(*waits).values(values)).rowcount:
        return False
    step = connection.execute(select(jobs.c.step).where(jobs.c.id == item.job_id)).scalar()
    connection.execute(
        insert(attempts).values(
            fence=item.fence,
            job_id=item.job_id,
            number=item.number,
            plan_index=item.plan_index,
            allocation=item.allocation,
            launch=item.launch,
            state=AttemptState.STARTING.value,
            started_at=item.time,
            start_step=step,
            message="",
        )
    )
    facts = {"plan_index": item.plan_index, "devices": item.devices, "nodes": item.nodes}
    record(connection, item.job_id, EventKind.ATTEMPT_STARTED, attempt=item.number, time=item.time, facts=facts)
    return True


@one_by_one
def mark_running(connection: Connection, fence: int) -> None:
    """Write that an attempt has been seen running."""
    connection.execute(update(attempts).where(attempts.c.fence == fence).values(state=AttemptState.RUNNING.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of an attempt, and what becomes of its job: a final state, or ``WAITING`` until ``not_before``."""

    job_id: str
    number: int
    time: float
    attempt_reason: Reason
    attempt_message: str
    job_state: JobState
    reason: Reason
    message: str
    not_before: float | None = None
    retries: int = 0
    measurement: Mapping[str, Any] | None = None


@one_by_one
def end(connection: Connection, item: Ending) -> JobState:
    """Commit the end of an attempt and the next state of its job, and return that; again is harmless."""
    this = (attempts.c.job_id == item.job_id, attempts.c.number == item.number)
    ended = AttemptState.ENDED.value
    facts = {"reason": item.attempt_reason.value, "message": item.attempt_message}
    values = facts | {"state": ended, "ended_at": item.time}
    if not connection.execute(update(attempts).where(*this, attempts.c.state != ended).values(values)).rowcount:
        return JobState(connection.execute(select(jobs.c.state).where(jobs.c.id == item.job_id)).scalar_one())
    record(connection, item.job_id, EventKind.ATTEMPT_ENDED, attempt=item.number, time=item.time, facts=facts)
    if item.measurement is not None:
        measurements.add(connection, item.measurement)
    return _settle(connection, item)


def _settle(connection: Connection, item: Ending) -> JobState:
    state, reason, message = item.job_state, item.reason, item.message
    now = connection.execute(select(jobs.c.state).where(jobs.c.id == item.job_id)).scalar_one()
    if state is JobState.WAITING and now == JobState.STOPPING.value:
        # The user asked to stop while this end was being decided: there is no next attempt.
        state, reason, message = JobState.STOPPED, Reason.STOPPED_BY_USER, "stopped"
    if state.is_final:
        job_end = JobEnd(
            job_id=item.job_id, attempt=item.number, time=item.time, state=state, reason=reason, message=message
        )
        finish(connection, job_end)
        return state
    facts = {"reason": Reason.BACKOFF.value, "message": message}
    values = facts | {"state": state.value, "not_before": item.not_before, "retries": item.retries}
    connection.execute(update(jobs).where(jobs.c.id == item.job_id).values(values))
    record(connection, item.job_id, EventKind.WAITING, attempt=item.number, time=item.time, facts=facts)
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """An agent that died and is started again."""

    job_id: str
    number: int
    time: float
    node: str


@one_by_one
def note_restart(connection: Connection, item: Restarted) -> None:
    """Write that an agent is started again."""
    facts = {"node": item.node}
    record(connection, item.job_id, EventKind.AGENT_RESTARTED, attempt=item.number, time=item.time, facts=facts)


def last_fence(connection: Connection) -> int:
    """Return the highest fence number given to any attempt; 0 where there is none."""
    return int(connection.execute(select(func.coalesce(func.max(attempts.c.fence), 0))).scalar_one())


def latest(connection: Connection, job_id: str) -> Attempt | None:
    """Return a job's latest attempt."""
    query = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.number.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return None
    return Attempt(
        job_id=job_id,
        number=row["number"],
        fence=row["fence"],
        plan_index=row["plan_index"],
        allocation=decode(Allocation, row["allocation"]),
        state=AttemptState(row["state"]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        reason=None if row["reason"] is None else Reason(row["reason"]),
    )


def launch_of(connection: Connection, fence: int) -> LaunchSpec:
    """Return what was committed to be launched for an attempt."""
    text = connection.execute(select(attempts.c.launch).where(attempts.c.fence == fence)).scalar_one()
    return decode(LaunchSpec, text)


def start_step(connection: Connection, fence: int) -> int | None:
    """Return the step that the job had reached when the attempt started."""
    found: int | None = connection.execute(select(attempts.c.start_step).where(attempts.c.fence == fence)).scalar()
    return found


def history(connection: Connection, job_id: str) -> list[dict[str, Any]]:
    """Return every attempt of a job, oldest first, as plain values."""
    columns = (
        attempts.c.number,
        attempts.c.fence,
        attempts.c.plan_index,
        attempts.c.allocation,
        attempts.c.state,
        attempts.c.started_at,
        attempts.c.ended_at,
        attempts.c.reason,
        attempts.c.message,
    )
    query = select(*columns).where(attempts.c.job_id == job_id).order_by(attempts.c.number)
    return [row | {"allocation": json.loads(row["allocation"])} for row in plain_rows(connection.execute(query))]
