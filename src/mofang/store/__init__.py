"""Jobs, attempts, events and measurements on disk: SQLite, one writer, many writes a transaction."""

from mofang.store.store import Store

__all__ = ["Store"]
