from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Connection, event

from mofang.errors import ConflictError, NotFoundError, NotLeaderError, StoreError
from mofang.store import Store, leadership
from mofang.store.jobs import NewJob, Submission, accept, rows
from mofang.store.leadership import Holder
from mofang.store.writer import one_by_one

ME = Holder(host="here", boot="b", pid=1, start_ticks=1)
OTHER = Holder(host="here", boot="b", pid=2, start_ticks=2)


def submission(number: int, key: str | None = None) -> Submission:
    name = f"{number:012x}"
    row = NewJob(name, key or name, "me", "job", "waiting", "", 0, "{}", "[]", 1.0, 0, "", None)
    return Submission(row, 1)


class Together:
    """Writes of many threads that all queue while another one is being committed, and then go on together."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entered, self._opened = Event(), Event()
        self._pool = ThreadPoolExecutor(128)
        self._gate = self._pool.submit(store.write, self._wait, None)
        assert self._entered.wait(10)
        self.answers: list[Future[Any]] = []

    def _wait(self, connection: Connection, items: Any) -> list[None]:
        self._entered.set()
        assert self._opened.wait(10)
        return [None] * len(items)

    def write(self, operation: Any, *items: Any) -> None:
        for item in items:
            self.answers.append(self._pool.submit(self._store.write, operation, item))

    def go(self) -> list[Future[Any]]:
        give_up = time.monotonic() + 10
        while len(self._store._writer._queue) < len(self.answers) and time.monotonic() < give_up:
            time.sleep(0.001)
        self._opened.set()
        self._pool.shutdown()
        return self.answers


def test_a_lone_write_is_one_transaction_and_answered_after_it(store: Store) -> None:
    commits: list[int] = []
    event.listen(store._writes, "commit", lambda connection: commits.append(1))
    assert store.write(accept, submission(1)).created
    assert len(commits) == 1


def test_writes_that_wait_together_are_committed_together(store: Store) -> None:
    commits: list[int] = []
    event.listen(store._writes, "commit", lambda connection: commits.append(1))
    together = Together(store)
    together.write(accept, *(submission(number) for number in range(100)))
    assert all(answer.result().created for answer in together.go())
    assert len(commits) == 2  # the gate's own, and one for all hundred
    assert len(store.read(rows, None, None)) == 100


def test_one_bad_write_does_not_spoil_those_it_was_committed_with(store: Store) -> None:
    @one_by_one
    def fail(connection: Connection, item: str) -> None:
        raise NotFoundError(item)

    together = Together(store)
    together.write(accept, submission(1))
    together.write(fail, "no such thing")
    together.write(accept, submission(2))
    before, bad, after = together.go()
    with pytest.raises(NotFoundError, match="no such thing"):
        bad.result()
    assert before.result().created
    assert after.result().created
    assert len(store.read(rows, None, None)) == 2


class Loop:
    """An event loop's part: what it is asked to run later, and what it is told."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []
        self.told: list[Any] = []

    def set_result(self, result: Any) -> None:
        self.told.append(result)

    def set_exception(self, error: Exception) -> None:
        self.told.append(error)


def test_an_event_loop_flushes_once_for_all_that_it_has_read(store: Store) -> None:
    loop, commits = Loop(), list[int]()
    event.listen(store._writes, "commit", lambda connection: commits.append(1))
    store.attach(loop.later.append, lambda answer: answer())
    for number in range(10):
        store.put(accept, submission(number), loop)
    assert (len(loop.later), loop.told, commits) == (1, [], [])
    loop.later.pop()()
    assert [answer.created for answer in loop.told] == [True] * 10
    assert len(commits) == 1
    store.put(accept, submission(99), loop)
    assert len(loop.later) == 1  # asked again
    store.detach()


def test_answers_to_an_event_loop_are_delivered_on_it_whoever_commits(store: Store) -> None:
    loop, delivered = Loop(), list[Callable[[], None]]()
    store.attach(loop.later.append, delivered.append)
    store.put(accept, submission(1), loop)
    assert store.write(accept, submission(2)).created  # commits both
    assert loop.told == []
    delivered.pop()()
    assert [answer.job_id for answer in loop.told] == [submission(1).row.id]
    store.detach()


def test_an_unexpected_error_becomes_a_store_error(store: Store) -> None:
    def broken(connection: Connection, items: Any) -> list[None]:
        raise ZeroDivisionError("oops")

    with pytest.raises(StoreError, match="ZeroDivisionError"):
        store.write(broken, None)


def test_a_full_disk_is_told_and_spoils_nothing(store: Store) -> None:
    store.write(accept, submission(1))
    pages = store._writer._connection.exec_driver_sql("PRAGMA page_count").scalar()
    store._writer._connection.commit()
    store._writer._connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    store._writer._connection.commit()
    big = submission(2)._replace(row=submission(2).row._replace(scenario="x" * 100_000))
    with pytest.raises(StoreError, match="the disk is full") as caught:
        store.write(accept, big)
    assert "nothing that was accepted is lost" in caught.value.hint
    store._writer._connection.exec_driver_sql("PRAGMA max_page_count = 100000")
    store._writer._connection.commit()
    assert store.write(accept, big).created
    assert len(store.read(rows, None, None)) == 2


def test_whoever_lost_leadership_writes_nothing(store: Store) -> None:
    with Store(store.path) as second:
        assert store.lead(ME, 0.0, 10.0, lambda holder: True) == 1
        assert store.write(accept, submission(1)).created
        assert second.lead(OTHER, 11.0, 10.0, lambda holder: True) == 2
        with pytest.raises(NotLeaderError):
            store.write(accept, submission(2))
        assert second.write(accept, submission(5)).created
        assert len(second.read(rows, None, None)) == 2


def test_closing_writes_what_is_queued(tmp_path: Path) -> None:
    loop = Loop()
    with Store(tmp_path / "closing.db") as store:
        store.attach(lambda flush: None, lambda answer: answer())
        store.put(accept, submission(1), loop)
        assert loop.told == []
    assert loop.told[0].created


def test_writes_of_one_kind_are_one_transaction(store: Store) -> None:
    commits: list[int] = []
    event.listen(store._writes, "commit", lambda connection: commits.append(1))
    store.write_all(accept, [submission(number) for number in range(150)])
    assert len(commits) == 1
    assert len(store.read(rows, None, None)) == 150


def test_renewing_and_releasing_the_lease(store: Store) -> None:
    store.lead(ME, 0.0, 10.0, lambda holder: True)
    store.write(leadership.renew, 100.0)
    with Store(store.path) as second:
        with pytest.raises(ConflictError, match="process 1 on here"):
            second.lead(OTHER, 50.0, 10.0, lambda holder: True)
        store.write(leadership.release, 60.0)
        assert second.lead(OTHER, 60.0, 10.0, lambda holder: True) == 2
        assert store.fence == 1


def test_a_dead_leader_is_followed_at_once(store: Store) -> None:
    store.lead(ME, 0.0, 1e9, lambda holder: True)
    with Store(store.path) as second:
        assert second.lead(OTHER, 1.0, 10.0, lambda holder: False) == 2


def test_a_leader_may_lead_again(store: Store) -> None:
    assert store.lead(ME, 0.0, 10.0, lambda holder: True) == 1
    assert store.lead(ME, 1.0, 10.0, lambda holder: True) == 2
