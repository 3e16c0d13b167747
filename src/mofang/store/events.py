"""Events: appended, never changed, read behind a cursor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, ScalarSelect, bindparam, func, literal, select, update
from sqlalchemy.dialects.sqlite import insert

from mofang.domain.events import EventKind
from mofang.store.tables import events, fast, jobs, plain_rows, spool_offsets
from mofang.store.writer import one_by_one

__all__ = ["APPEND", "CONTROL", "Ingest", "after", "ingest", "offsets", "record", "step_times"]

CONTROL = "control"  # the source of the controller's own events

_COLUMNS = ("job", "attempt", "generation", "source", "sequence", "time", "kind", "data")

_READ = tuple(column for column in events.columns if column.name != "job")


def _this(job_id: Any) -> ScalarSelect[int]:
    """Return the number of the job of this id, as a subquery."""
    return select(jobs.c.number).where(jobs.c.id == job_id).scalar_subquery()


# Values: attempt, generation, source, sequence, time, kind, data, job's id.
APPEND = fast(
    insert(events)
    .from_select(
        _COLUMNS,
        select(jobs.c.number, *(bindparam(name) for name in _COLUMNS[1:])).where(jobs.c.id == bindparam("job_id")),
    )
    .on_conflict_do_nothing()
)

_offset = insert(spool_offsets)
_MOVE_OFFSET = _offset.on_conflict_do_update(
    index_elements=["job_id", "file"], set_={"offset": _offset.excluded.offset}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingest:
    """What was read from one job's spool.

    ``rows`` are values of ``APPEND``, ``offsets`` how far each file has been read, and
    ``progress`` the new values of the job's progress columns.
    """

    job_id: str
    rows: Sequence[tuple[Any, ...]]
    offsets: Mapping[str, int]
    progress: Mapping[str, float | int | str]


@one_by_one
def ingest(connection: Connection, item: Ingest) -> None:
    """Store a spool's events, its offsets and the job's progress together: exactly once, whatever dies."""
    if item.rows:
        connection.exec_driver_sql(APPEND, list(item.rows))
    if item.offsets:
        rows = [{"job_id": item.job_id, "file": file, "offset": end} for file, end in item.offsets.items()]
        connection.execute(_MOVE_OFFSET, rows)
    if item.progress:
        connection.execute(update(jobs).where(jobs.c.id == item.job_id).values(dict(item.progress)))


_next = (
    select(func.coalesce(func.max(events.c.sequence), 0) + 1)
    .where(
        events.c.job == jobs.c.number,
        events.c.attempt == bindparam("number"),
        events.c.generation == 0,
        events.c.source == CONTROL,
    )
    .correlate(jobs)
    .scalar_subquery()
)
_RECORD = insert(events).from_select(
    _COLUMNS,
    select(
        jobs.c.number,
        bindparam("number"),
        literal(0),
        literal(CONTROL),
        _next,
        bindparam("at"),
        bindparam("what"),
        bindparam("facts"),
    ).where(jobs.c.id == bindparam("of_job")),
)


def record(
    connection: Connection, job_id: str, kind: EventKind, *, attempt: int, time: float, facts: Mapping[str, Any]
) -> None:
    """Append one of the controller's own events, with the next sequence number."""
    values = {"of_job": job_id, "number": attempt, "at": time, "what": kind.value, "facts": json.dumps(facts)}
    connection.execute(_RECORD, values)


def after(
    connection: Connection, job_id: str, cursor: int, limit: int, kinds: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return a job's events behind ``cursor``, oldest first; ``data`` is JSON text."""
    query = select(*_READ, literal(job_id).label("job_id")).where(
        events.c.job == _this(job_id), events.c.cursor > cursor
    )
    if kinds is not None:
        query = query.where(events.c.kind.in_(kinds))
    return plain_rows(connection.execute(query.order_by(events.c.cursor).limit(limit)))


def offsets(connection: Connection, job_id: str) -> dict[str, int]:
    """Return how far each spool file of a job has been read."""
    query = select(spool_offsets.c.file, spool_offsets.c.offset).where(spool_offsets.c.job_id == job_id)
    return {row.file: row.offset for row in connection.execute(query)}


def step_times(connection: Connection, job_id: str, source: str) -> list[float]:
    """Return the seconds of every step that one worker reported, in order."""
    value = func.json_extract(events.c.data, "$.step_time_s")
    query = select(value).where(
        events.c.job == _this(job_id), events.c.kind == EventKind.STEP.value, events.c.source == source
    )
    found = connection.execute(query.order_by(events.c.cursor)).scalars()
    return [float(seconds) for seconds in found if seconds is not None]
