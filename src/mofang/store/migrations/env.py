"""Alembic's entry: run the migrations on the connection that the store hands over."""

from __future__ import annotations

from alembic import context

from mofang.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot change a column in place
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
