"""One leader at a time: a lease with a fence number that grows with every leader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, insert, select, update

from mofang.errors import ConflictError
from mofang.store.tables import leadership
from mofang.store.writer import one_by_one

__all__ = ["Holder", "release", "renew", "take"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process, told apart from every later one with the same number by its host's boot and its start time."""

    host: str
    boot: str
    pid: int
    start_ticks: int


def take(connection: Connection, holder: Holder, now: float, ttl_s: float, is_alive: Callable[[Holder], bool]) -> int:
    """Make ``holder`` the leader and return its fence number.

    Args:
        connection: inside a transaction that holds the write lock.
        holder: the process that wants to lead.
        now: seconds since the epoch.
        ttl_s: how long the lease lasts without renewal.
        is_alive: whether a holder's process may still be there.

    Raises:
        ConflictError: the lease is not expired and its holder lives.
    """
    found = connection.execute(select(leadership)).mappings().one_or_none()
    if found is None:
        connection.execute(insert(leadership).values(id=1, fence=1, expires_at=now + ttl_s, **asdict(holder)))
        return 1
    leader = Holder(host=found["host"], boot=found["boot"], pid=found["pid"], start_ticks=found["start_ticks"])
    if leader != holder and found["expires_at"] > now and is_alive(leader):
        raise ConflictError(
            f"another controller leads already: process {leader.pid} on {leader.host}",
            data={"pid": leader.pid, "host": leader.host, "fence": found["fence"]},
        )
    fence = int(found["fence"]) + 1
    connection.execute(update(leadership).values(fence=fence, expires_at=now + ttl_s, **asdict(holder)))
    return fence


@one_by_one
def renew(connection: Connection, expires_at: float) -> None:
    """Extend the lease of the leader whose fence this transaction has checked."""
    connection.execute(update(leadership).values(expires_at=expires_at))


@one_by_one
def release(connection: Connection, now: float) -> None:
    """Let the lease end now, so that the next controller need not wait for it."""
    connection.execute(update(leadership).values(expires_at=now))
