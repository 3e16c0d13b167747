"""Group commit: one transaction at a time, and whatever waits when it is free goes into the next one together.

A lone write commits at once; many at the same time share the cost of one sync. A caller is answered after the commit
that holds its write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection, Engine

from mofang.errors import MofangError, NotLeaderError, StoreError
from mofang.store.engine import store_errors

__all__ = ["Answer", "Operation", "Writer", "one_by_one"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# What is written together: the items of one kind, in order, to their results, in order.
Operation = Callable[[Connection, Sequence[Item]], Sequence[Result]]

_MOST = 256  # writes in one transaction: bounds the time that the first of them waits

_GUARD = "SELECT fence FROM leadership WHERE id = 1"


class Answer(Protocol):
    """What is told the result of a queued write: a future, or something like one."""

    def set_result(self, result: Any, /) -> None:
        """Take the result."""

    def set_exception(self, error: Exception, /) -> None:
        """Take what went wrong."""


class _Entry(NamedTuple):
    operation: Operation[Any, Any]
    item: Any
    answer: Answer


def one_by_one(write: Callable[[Connection, Item], Result]) -> Operation[Item, Result]:
    """Return the operation that writes its items one after another."""

    def operation(connection: Connection, items: Sequence[Item]) -> list[Result]:
        return [write(connection, item) for item in items]

    operation.__doc__ = write.__doc__
    return operation


class Writer:
    """One transaction at a time, by whichever thread comes first, for all that have queued.

    There is no thread of its own: handing a write over to one and its answer back costs more than a commit does.
    ``fence`` is the leadership that every transaction checks first; None before leadership is taken.

    A program with an event loop queues with ``put``: ``schedule`` is asked to run the flush soon, once for all that
    are queued until then, and ``deliver`` runs the answers of one commit where they belong.
    """

    def __init__(self, engine: Engine, path: Path) -> None:
        self.fence: int | None = None
        self.schedule: Callable[[Callable[[], None]], object] = lambda flush: flush()
        self.deliver: Callable[[Callable[[], None]], object] = lambda answer: answer()
        self._path = path
        self._connection = engine.connect()  # for good; whoever holds the lock uses it
        self._cursor = self._connection.connection.cursor()
        self._lock = Lock()
        self._queue: deque[_Entry] = deque()
        self._scheduled = False
        self._seen = 0  # how many had queued when the flush was last put off
        self._last = 0  # how many the last commit held

    def write(self, operation: Operation[Item, Result], item: Item) -> Result:
        """Write one item, and whatever else is queued; return its result after the commit."""
        answer: Future[Result] = Future()
        self._queue.append(_Entry(operation, item, answer))
        self.flush()
        return answer.result()  # which another thread may be about to commit

    def put(self, operation: Operation[Item, Result], item: Item, answer: Answer) -> None:
        """Queue one write; ``answer`` is set, by ``deliver``, after the commit that holds it."""
        self._queue.append(_Entry(operation, item, answer))
        if not self._scheduled:
            self._scheduled = True
            self.schedule(self._flush_scheduled)

    def flush(self) -> None:
        """Commit everything that is queued."""
        while self._queue:
            with self._lock:
                entries = self._take()
                self._last = len(entries)
                results = self._commit(entries) if entries else []
            self._settle(list(zip(entries, results, strict=True)))

    def close(self) -> None:
        """Commit what is queued, and hang up."""
        self.flush()
        with self._lock:
            self._cursor.close()
            self._connection.close()

    def _flush_scheduled(self) -> None:
        # While many write at the same time, who is on his way shares the sync; one who writes alone never waits.
        if self._last > 1 and self._seen < len(self._queue) < _MOST:
            self._seen = len(self._queue)
            self.schedule(self._flush_scheduled)
            return
        self._seen = 0
        self._scheduled = False  # before looking: what is queued from now on asks for a flush of its own
        self.flush()

    def _take(self) -> list[_Entry]:
        entries: list[_Entry] = []
        while self._queue and len(entries) < _MOST:
            entries.append(self._queue.popleft())
        return entries

    def _settle(self, answers: list[tuple[_Entry, Any]]) -> None:
        threads = [pair for pair in answers if isinstance(pair[0].answer, Future)]
        others = [pair for pair in answers if not isinstance(pair[0].answer, Future)]
        _answer(threads)
        if others:
            with suppress(RuntimeError):  # the event loop is closed: nobody waits for an answer any more
                self.deliver(lambda: _answer(others))

    def _commit(self, entries: list[_Entry]) -> list[Any]:
        try:
            return self._transaction(entries)
        except NotLeaderError as error:
            return [error] * len(entries)
        except Exception as error:
            if len(entries) == 1:
                return [error if isinstance(error, MofangError) else _unexpected(error)]
        # One of them is bad: alone, each gets its own answer.
        return [result for entry in entries for result in self._commit([entry])]

    def _transaction(self, entries: list[_Entry]) -> list[Any]:
        results: list[Any] = []
        with store_errors(self._path), self._connection.begin():
            connection = self._connection
            self._check_fence()
            for operation, group in groupby(entries, key=lambda entry: entry.operation):
                results += operation(connection, [entry.item for entry in group])
        return results

    def _check_fence(self) -> None:
        if self.fence is None:
            return
        # By the driver's own cursor: this runs in every transaction.
        row = self._cursor.execute(_GUARD).fetchone()
        found = None if row is None else row[0]
        if found != self.fence:
            raise NotLeaderError(
                f"another controller leads (fence {found}, ours is {self.fence})", hint="this controller leaves"
            )


def _unexpected(error: Exception) -> StoreError:
    wrapped = StoreError(f"the store failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _answer(answers: list[tuple[_Entry, Any]]) -> None:
    for entry, result in answers:
        if isinstance(result, Exception):
            entry.answer.set_exception(result)
        else:
            entry.answer.set_result(result)
