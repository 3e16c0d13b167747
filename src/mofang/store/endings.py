"""The end of a job: one place writes it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, update

from mofang.domain.events import EventKind
from mofang.domain.job import JobState
from mofang.domain.reasons import Reason
from mofang.store.events import record
from mofang.store.tables import jobs

__all__ = ["JobEnd", "finish"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """How a job ended; ``attempt`` 0 where it never started."""

    job_id: str
    attempt: int
    time: float
    state: JobState
    reason: Reason
    message: str


def finish(connection: Connection, end: JobEnd) -> None:
    """Write a job's end and its last event."""
    facts = {"state": end.state.value, "reason": end.reason.value, "message": end.message}
    connection.execute(
        update(jobs).where(jobs.c.id == end.job_id).values(facts | {"ended_at": end.time, "not_before": None})
    )
    record(connection, end.job_id, EventKind.JOB_ENDED, attempt=end.attempt, time=end.time, facts=facts)
