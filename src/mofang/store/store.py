"""The store of one home: queries on readers' connections, writes through the one writer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection

from mofang.errors import StoreError
from mofang.store import leadership
from mofang.store.engine import make_engine, store_errors
from mofang.store.leadership import Holder
from mofang.store.schema import bring_up_to_date
from mofang.store.writer import Answer, Operation, Writer

__all__ = ["Store"]

P = ParamSpec("P")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Store:
    """An open store.

    The modules beside this one hold its queries (functions of a connection, given to ``read``) and its operations
    (functions of a connection and items, given to ``write``).

    Args:
        path: the database file; it is made, or brought up to date, where needed.

    Raises:
        StoreError: it cannot be opened, is corrupt, or was written by a newer Mofang.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreError(f"cannot make {path.parent}: {error.strerror}", hint="set MOFANG_HOME") from error
        self._writes = make_engine(path, begin="BEGIN IMMEDIATE", connections=2)
        self._reads = make_engine(path, begin="BEGIN", connections=8)
        try:
            with store_errors(path):
                bring_up_to_date(self._writes, path)
                path.chmod(0o600)
        except BaseException:
            self._dispose()
            raise
        self._writer = Writer(self._writes, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is queued, and close every connection."""
        self._writer.close()
        self._dispose()

    def _dispose(self) -> None:
        self._reads.dispose()
        self._writes.dispose()

    def read(self, query: Callable[Concatenate[Connection, P], Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Return what a query finds, in one consistent snapshot.

        Raises:
            StoreError: the store cannot be read.
        """
        with store_errors(self.path), self._reads.connect() as connection:
            return query(connection, *args, **kwargs)

    def write(self, operation: Operation[Item, Result], item: Item) -> Result:
        """Write one item and return its result once it is on disk.

        Raises:
            NotLeaderError: another controller leads by now; nothing was written.
            StoreError: the store cannot be written.
        """
        return self._writer.write(operation, item)

    def put(self, operation: Operation[Item, Result], item: Item, answer: Answer) -> None:
        """Queue one write of an event loop's; ``answer`` is set on the loop after the commit that holds it."""
        self._writer.put(operation, item, answer)

    def write_all(self, operation: Operation[Item, Result], items: Sequence[Item]) -> None:
        """Write items of one kind together.

        Raises:
            NotLeaderError: another controller leads by now; nothing was written.
            StoreError: the store cannot be written.
        """
        self._writer.write(lambda connection, groups: [operation(connection, group) for group in groups], items)

    def attach(
        self, schedule: Callable[[Callable[[], None]], object], deliver: Callable[[Callable[[], None]], object]
    ) -> None:
        """Serve an event loop: see ``Writer``."""
        self._writer.schedule, self._writer.deliver = schedule, deliver

    def detach(self) -> None:
        """Serve no event loop any more."""
        self.attach(lambda flush: flush(), lambda answer: answer())

    @property
    def fence(self) -> int | None:
        """The leadership that every write checks; None where none was taken."""
        return self._writer.fence

    def lead(self, holder: Holder, now: float, ttl_s: float, is_alive: Callable[[Holder], bool]) -> int:
        """Take leadership, and check it in every write from now on; return its fence number.

        Raises:
            ConflictError: another living controller holds it.
        """
        with store_errors(self.path), self._writes.begin() as connection:
            fence = leadership.take(connection, holder, now, ttl_s, is_alive)
        self._writer.fence = fence
        return fence
