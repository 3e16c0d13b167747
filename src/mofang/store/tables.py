"""The tables. Instants are seconds since the epoch, UTC; JSON columns hold what ``domain.codec`` writes.

The migrations make them; a test holds both to be the same.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Insert,
    Integer,
    MetaData,
    Result,
    String,
    Table,
    Text,
    UniqueConstraint,
    Update,
)
from sqlalchemy.dialects import sqlite

__all__ = [
    "attempts",
    "events",
    "fast",
    "host_rates",
    "jobs",
    "leadership",
    "measurements",
    "metadata",
    "plain_rows",
    "spool_offsets",
]

# PostgreSQL numbers rows with 64 bits; SQLite only numbers a column that is called INTEGER.
_Number = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

jobs = Table(
    "jobs",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),  # the order in which they were accepted
    Column("id", String, nullable=False, unique=True),
    Column("key", String, nullable=False),
    Column("user", String, nullable=False),
    Column("name", String, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String),
    Column("message", Text, nullable=False, default=""),
    Column("priority", Integer, nullable=False, default=0),
    Column("scenario", Text, nullable=False),
    Column("plans", Text, nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("not_before", Float),  # a failed attempt waits until then for the next one
    Column("retries", Integer, nullable=False, default=0),  # attempts in a row that were lost without a step
    # Progress, kept beside the events so that a list of jobs never reads those.
    Column("devices", String, nullable=False, default=""),
    Column("step", _Number),
    Column("steps", _Number),
    Column("loss", Float),
    UniqueConstraint("user", "key"),
)
Index("ix_jobs_state_number", jobs.c.state, jobs.c.number)
Index("ix_jobs_name_number", jobs.c.name, jobs.c.number)

attempts = Table(
    "attempts",
    metadata,
    Column("fence", _Number, primary_key=True, autoincrement=True),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("plan_index", Integer, nullable=False),
    Column("allocation", Text, nullable=False),
    Column("launch", Text, nullable=False),
    Column("state", String, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("start_step", _Number),  # the job's step when the attempt started
    Column("ended_at", Float),
    Column("reason", String),
    Column("message", Text, nullable=False, default=""),
    UniqueConstraint("job_id", "number"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("cursor", _Number, primary_key=True, autoincrement=True),
    Column("job", _Number, ForeignKey("jobs.number"), nullable=False),  # grows: its indices are written at their end
    Column("attempt", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("source", String, nullable=False),
    Column("sequence", _Number, nullable=False),
    Column("time", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("data", Text, nullable=False),
    UniqueConstraint("job", "attempt", "generation", "source", "sequence"),
)
Index("ix_events_job_cursor", events.c.job, events.c.cursor)

spool_offsets = Table(
    "spool_offsets",
    metadata,
    Column("job_id", String, ForeignKey("jobs.id"), primary_key=True),
    Column("file", String, primary_key=True),  # inside the job's run directory
    Column("offset", _Number, nullable=False),
)

leadership = Table(
    "leadership",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # one row, number 1
    Column("fence", _Number, nullable=False),
    Column("host", String, nullable=False),
    Column("boot", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("start_ticks", _Number, nullable=False),  # the start time of the holder's process, in the kernel's ticks
    Column("expires_at", Float, nullable=False),
)

host_rates = Table(
    "host_rates",
    metadata,
    Column("host", String, primary_key=True),
    Column("measured_at", Float, nullable=False),
    Column("rates", Text, nullable=False),
)

measurements = Table(
    "measurements",
    metadata,
    Column("id", _Number, primary_key=True, autoincrement=True),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False, unique=True),
    Column("measured_at", Float, nullable=False),
    Column("scenario", Text, nullable=False),
    Column("strategy", Text, nullable=False),
    Column("placement", Text, nullable=False),
    Column("nodes", Text, nullable=False),
    Column("predicted_step_s", Float),
    Column("measured_step_s", Float, nullable=False),
    Column("steps", _Number, nullable=False),
)


def fast(statement: Insert | Update) -> str:
    """Return a statement as driver-level SQL; its values come as tuples, in the order in which the text names them.

    The statements of the hot path skip SQLAlchemy's work per execution, which costs more than SQLite's own.
    """
    return str(statement.compile(dialect=sqlite.dialect()))


def plain_rows(result: Result[Any]) -> list[dict[str, Any]]:
    """Return rows as dictionaries with plain text for keys: SQLAlchemy's own kind of text takes long to serialise."""
    names = [str.__str__(name) for name in result.keys()]  # noqa: SIM118 - a result is no mapping
    return [dict(zip(names, row, strict=True)) for row in result]
