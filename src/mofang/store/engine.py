"""The connection to SQLite: its settings, and its errors in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from mofang.errors import StoreError

__all__ = ["PRAGMAS", "make_engine", "store_errors"]

PRAGMAS = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size = -65536",  # kibibytes: the indices of a long history stay in memory
    "PRAGMA wal_autocheckpoint = 4000",  # pages: a busy minute is copied back less often
)

_HINTS = (
    ("full", "the disk is full", "free some space under {path} and start again; nothing that was accepted is lost"),
    ("locked", "another program holds the database", "end whatever has {path} open"),
    ("busy", "another program holds the database", "end whatever has {path} open"),
    ("readonly", "the database cannot be written", "check the permissions of {path}"),
    (
        "unable to open",
        "the database cannot be opened",
        "check that {path} is a file in a folder that you can write to",
    ),
    ("disk i/o", "the disk reports an error", "check the disk under {path}"),
    ("malformed", "the database is corrupt", "move {path} away, or restore a copy of it"),
    ("not a database", "the file is no database", "move {path} away, or restore a copy of it"),
)


def make_engine(path: Path, *, begin: str, connections: int) -> Engine:
    """Return an engine whose every connection is durable at commit (WAL, synchronous FULL) and checks foreign keys.

    Args:
        path: the database file.
        begin: how transactions start: ``BEGIN IMMEDIATE`` for the writer, ``BEGIN`` for readers.
        connections: how many connections are kept.
    """
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        # The driver's own transaction handling is off: SQLAlchemy's begin event opens them, reads included.
        connect_args={"isolation_level": None, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def set_up(raw: Any, _record: Any) -> None:
        for pragma in PRAGMAS:
            raw.execute(pragma)

    @event.listens_for(engine, "begin")
    def open_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn what the database raises into ``StoreError`` with a hint.

    Raises:
        StoreError: the disk is full, the database is locked, corrupt or unreadable.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise _in_words(error, path) from error


def _in_words(error: Exception, path: Path) -> StoreError:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = " ".join(str(cause).split())
    for sign, what, hint in _HINTS:
        if sign in text.lower():
            return StoreError(f"{what}: {path} ({text})", hint=hint.format(path=path))
    return StoreError(f"the store failed: {text[:300]}", hint=f"the store is {path}")
