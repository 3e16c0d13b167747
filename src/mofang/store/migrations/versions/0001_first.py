"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    _make_jobs()
    _make_attempts()
    _make_events()
    op.create_table(
        "leadership",
        sa.Column("id", sa.Integer, autoincrement=False),
        sa.Column("fence", _Number, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("boot", sa.String, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("start_ticks", _Number, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_leadership"),
    )
    op.create_table(
        "host_rates",
        sa.Column("host", sa.String),
        sa.Column("measured_at", sa.Float, nullable=False),
        sa.Column("rates", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("host", name="pk_host_rates"),
    )
    _make_measurements()


def _make_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("number", _Number, autoincrement=True),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("user", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("scenario", sa.Text, nullable=False),
        sa.Column("plans", sa.Text, nullable=False),
        sa.Column("submitted_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("ended_at", sa.Float),
        sa.Column("not_before", sa.Float),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("devices", sa.String, nullable=False),
        sa.Column("step", _Number),
        sa.Column("steps", _Number),
        sa.Column("loss", sa.Float),
        sa.PrimaryKeyConstraint("number", name="pk_jobs"),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sa.UniqueConstraint("user", "key", name="uq_jobs_user_key"),
    )
    op.create_index("ix_jobs_state_number", "jobs", ["state", "number"])
    op.create_index("ix_jobs_name_number", "jobs", ["name", "number"])


def _make_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("fence", _Number, autoincrement=True),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("plan_index", sa.Integer, nullable=False),
        sa.Column("allocation", sa.Text, nullable=False),
        sa.Column("launch", sa.Text, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("start_step", _Number),
        sa.Column("ended_at", sa.Float),
        sa.Column("reason", sa.String),
        sa.Column("message", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("fence", name="pk_attempts"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id"),
        sa.UniqueConstraint("job_id", "number", name="uq_attempts_job_id_number"),
        sqlite_autoincrement=True,
    )


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("cursor", _Number, autoincrement=True),
        sa.Column("job", _Number, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("sequence", _Number, nullable=False),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("cursor", name="pk_events"),
        sa.ForeignKeyConstraint(["job"], ["jobs.number"], name="fk_events_job"),
        sa.UniqueConstraint(
            "job",
            "attempt",
            "generation",
            "source",
            "sequence",
            name="uq_events_job_attempt_generation_source_sequence",
        ),
    )
    op.create_index("ix_events_job_cursor", "events", ["job", "cursor"])
    op.create_table(
        "spool_offsets",
        sa.Column("job_id", sa.String),
        sa.Column("file", sa.String),
        sa.Column("offset", _Number, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "file", name="pk_spool_offsets"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_spool_offsets_job_id"),
    )


def _make_measurements() -> None:
    op.create_table(
        "measurements",
        sa.Column("id", _Number, autoincrement=True),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("measured_at", sa.Float, nullable=False),
        sa.Column("scenario", sa.Text, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("placement", sa.Text, nullable=False),
        sa.Column("nodes", sa.Text, nullable=False),
        sa.Column("predicted_step_s", sa.Float),
        sa.Column("measured_step_s", sa.Float, nullable=False),
        sa.Column("steps", _Number, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_measurements"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_measurements_job_id"),
        sa.UniqueConstraint("job_id", name="uq_measurements_job_id"),
    )
