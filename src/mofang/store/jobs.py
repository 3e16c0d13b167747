"""Jobs: accepted once, listed without reading anything large, and their changes of state."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.sqlite import insert

from mofang.domain.codec import decode
from mofang.domain.events import EventKind
from mofang.domain.job import Job, JobState
from mofang.domain.plan import Plan
from mofang.domain.reasons import Reason
from mofang.domain.scenario import Scenario
from mofang.errors import NotFoundError, SpecError, StoreError, UsageError
from mofang.store import attempts
from mofang.store.endings import JobEnd, finish
from mofang.store.events import record
from mofang.store.tables import fast, jobs, plain_rows
from mofang.store.writer import one_by_one

__all__ = [
    "Accepted",
    "LiveJob",
    "NewJob",
    "Stopping",
    "Submission",
    "Waiting",
    "accept",
    "brief",
    "fail",
    "find",
    "live",
    "load",
    "note_waiting",
    "request_stop",
    "rows",
    "state_of",
]

T = TypeVar("T")

_LIVE = tuple(state.value for state in JobState if not state.is_final)

_SLIM = (
    jobs.c.id,
    jobs.c.name,
    jobs.c.user,
    jobs.c.state,
    jobs.c.reason,
    jobs.c.message,
    jobs.c.devices,
    jobs.c.step,
    jobs.c.steps,
    jobs.c.loss,
    jobs.c.submitted_at,
    jobs.c.started_at,
    jobs.c.ended_at,
)


class NewJob(NamedTuple):
    """A row of ``jobs`` as it is first written, in the order of the table's columns."""

    id: str
    key: str
    user: str
    name: str
    state: str
    message: str
    priority: int
    scenario: str
    plans: str
    submitted_at: float
    retries: int
    devices: str
    steps: int | None


class Submission(NamedTuple):
    """A new job, and how many plans it brings."""

    row: NewJob
    num_plans: int


@cache
def _accept(number: int) -> str:
    """Return the statement that inserts this many jobs at once."""
    rows = [dict.fromkeys(NewJob._fields)] * number
    return fast(insert(jobs).values(rows).on_conflict_do_nothing(index_elements=["user", "key"]))


@cache
def _tell_submitted(number: int) -> str:
    """Return the statement that appends the first event of this many jobs; values: id and data of each."""
    given = ", ".join(["(?, ?)"] * number)
    return (
        "INSERT INTO events (job, attempt, generation, source, sequence, time, kind, data) "  # noqa: S608 - no values
        f"WITH given(id, data) AS (VALUES {given}) "
        "SELECT number, 0, 0, 'control', 1, submitted_at, 'submitted', data FROM given JOIN jobs ON jobs.id = given.id"
    )


def _pieces(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut into pieces of 64, 32, 16 ... items: few different statements, each prepared once."""
    at, size = 0, 64
    while at < len(items):
        while size > len(items) - at:
            size //= 2
        yield items[at : at + size]
        at += size


class Accepted(NamedTuple):
    """The job under a key, and whether this submission made it."""

    job_id: str
    created: bool


def accept(connection: Connection, items: Sequence[Submission]) -> list[Accepted]:
    """Store new jobs and their first events; one whose key its user has used before is the job of that key.

    Many rows a statement: the driver hands the interpreter over once for each statement, and every hand-over makes
    the thread that serves clients and the one that writes wait for each other.
    """
    written = 0
    for piece in _pieces(items):
        values = tuple(chain.from_iterable(item.row for item in piece))
        written += connection.exec_driver_sql(_accept(len(piece)), values).rowcount
    if written == len(items):
        accepted = [Accepted(item.row.id, True) for item in items]
    else:
        accepted = [_under_key(connection, item.row) for item in items]
    fresh = [
        (item.row.id, f'{{"plans":{item.num_plans}}}')
        for item, answer in zip(items, accepted, strict=True)
        if answer.created
    ]
    for told in _pieces(fresh):
        connection.exec_driver_sql(_tell_submitted(len(told)), tuple(chain.from_iterable(told)))
    return accepted


def _under_key(connection: Connection, row: NewJob) -> Accepted:
    query = select(jobs.c.id).where(jobs.c.user == row.user, jobs.c.key == row.key)
    job_id = connection.execute(query).scalar_one()
    return Accepted(job_id, job_id == row.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """A request to end a job."""

    job_id: str
    by: str
    time: float


@one_by_one
def request_stop(connection: Connection, item: Stopping) -> JobState:
    """End a waiting job, ask a running one to end, leave others as they are; return the state after it."""
    state = state_of(connection, item.job_id)
    if state is JobState.STOPPING or state.is_final:
        return state
    record(connection, item.job_id, EventKind.STOP_REQUESTED, attempt=0, time=item.time, facts={"by": item.by})
    if state is JobState.RUNNING:
        connection.execute(update(jobs).where(jobs.c.id == item.job_id).values(state=JobState.STOPPING.value))
        return JobState.STOPPING
    end = JobEnd(
        job_id=item.job_id,
        attempt=0,
        time=item.time,
        state=JobState.STOPPED,
        reason=Reason.STOPPED_BY_USER,
        message="stopped while it waited",
    )
    finish(connection, end)
    return JobState.STOPPED


@one_by_one
def fail(connection: Connection, end: JobEnd) -> None:
    """End a job that waits and can never start."""
    if state_of(connection, end.job_id) is JobState.WAITING:
        finish(connection, end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Why a job waits."""

    job_id: str
    time: float
    reason: Reason
    message: str


_STILL_WAITS = "UPDATE jobs SET reason = ?, message = ? WHERE id = ? AND state = 'waiting'"
_TELL_WAIT = (
    "INSERT INTO events (job, attempt, generation, source, sequence, time, kind, data) "
    "SELECT number, 0, 0, 'control', (SELECT max(sequence) + 1 FROM events AS earlier WHERE job = number "
    "AND attempt = 0 AND generation = 0 AND source = 'control'), ?, 'waiting', ? "
    "FROM jobs WHERE id = ? AND state = 'waiting'"
)


def note_waiting(connection: Connection, items: Sequence[Waiting]) -> list[None]:
    """Write down why jobs wait, unless they no longer do; a long queue is noted in one go."""
    connection.exec_driver_sql(_STILL_WAITS, [(item.reason.value, item.message, item.job_id) for item in items])
    facts = [json.dumps({"reason": item.reason.value, "message": item.message}) for item in items]
    rows = [(item.time, fact, item.job_id) for item, fact in zip(items, facts, strict=True)]
    connection.exec_driver_sql(_TELL_WAIT, rows)
    return [None] * len(items)


def rows(connection: Connection, states: Sequence[str] | None, limit: int | None) -> list[dict[str, Any]]:
    """Return what a list of jobs shows, newest first."""
    query = select(*_SLIM).order_by(jobs.c.number.desc())
    if states is not None:
        query = query.where(jobs.c.state.in_(states))
    if limit is not None:
        query = query.limit(limit)
    return plain_rows(connection.execute(query))


def find(connection: Connection, ref: str) -> str:
    """Return the id of the job with this id, this name (the newest of it) or this unique start of an id.

    Raises:
        NotFoundError: there is none.
        UsageError: several ids start with it.
    """
    by_name = select(jobs.c.id).where(jobs.c.name == ref).order_by(jobs.c.number.desc()).limit(1)
    for query in (select(jobs.c.id).where(jobs.c.id == ref), by_name):
        found = connection.execute(query).scalar()
        if found is not None:
            return str(found)
    start = select(jobs.c.id).where(jobs.c.id >= ref, jobs.c.id < ref + "\x7f").limit(2)
    ids = list(connection.execute(start).scalars()) if ref else []
    if not ids:
        raise NotFoundError(f"there is no job {ref!r}", hint="`mofang ps` lists the jobs")
    if len(ids) > 1:
        raise UsageError(f"several jobs start with {ref!r}: {', '.join(ids)}, ...", hint="write more of the id")
    return str(ids[0])


class LiveJob(NamedTuple):
    """A job that has not ended, and what the controller keeps beside it."""

    job: Job
    not_before: float | None
    retries: int
    step: int | None


def load(connection: Connection, job_id: str) -> LiveJob:
    """Return a job with its latest attempt.

    Raises:
        NotFoundError: there is no job of this id.
        SpecError: another version wrote it in words that this one does not know.
    """
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"there is no job {job_id!r}", hint="`mofang ps` lists the jobs")
    try:
        scenario, plans = decode(Scenario, row["scenario"]), decode(tuple[Plan, ...], row["plans"])
    except StoreError as error:
        raise SpecError(f"job {job_id} cannot be understood: {error.message}", hint="submit it again") from error
    job = Job(
        id=row["id"],
        name=row["name"],
        scenario=scenario,
        plans=plans,
        state=JobState(row["state"]),
        user=row["user"],
        key=row["key"],
        submitted_at=row["submitted_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        reason=None if row["reason"] is None else Reason(row["reason"]),
        message=row["message"],
        attempt=attempts.latest(connection, job_id),
    )
    return LiveJob(job, row["not_before"], row["retries"], row["step"])


def live(connection: Connection) -> list[str]:
    """Return the ids of all jobs that have not ended, oldest first."""
    query = select(jobs.c.id).where(jobs.c.state.in_(_LIVE)).order_by(jobs.c.number)
    return [str(job_id) for job_id in connection.execute(query).scalars()]


def state_of(connection: Connection, job_id: str) -> JobState:
    """Return the state of a job that exists."""
    return JobState(connection.execute(select(jobs.c.state).where(jobs.c.id == job_id)).scalar_one())


def brief(connection: Connection, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return id, name, user and devices of these jobs, in this order."""
    query = select(jobs.c.id, jobs.c.name, jobs.c.user, jobs.c.devices).where(jobs.c.id.in_(ids))
    found = {row["id"]: row for row in plain_rows(connection.execute(query))}
    return [found[job_id] for job_id in ids if job_id in found]
