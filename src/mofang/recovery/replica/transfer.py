"""One snapshot on its way from node to node: sent from the slot it lies in, received into the slot it goes to."""

from __future__ import annotations

import os
from collections.abc import Callable

from mofang.clock import Clock
from mofang.recovery.replica.pace import Bucket
from mofang.recovery.replica.shelf import Draft, Holding, Shelf
from mofang.recovery.replica.wire import Link
from mofang.recovery.snapshot.arena import Arena, Record

__all__ = ["Overtaken", "ask_for", "receive", "send"]

_CHUNK = 4 << 20
_PIECE = 1 << 20
_SEND_S = 20.0


class Overtaken(Exception):  # noqa: N818 - the training goes on, that is all
    """The sender no longer has the whole of it: newer snapshots have taken its place."""


def send(link: Link, shelf: Shelf, rank: int, fence: int, step: int) -> None:
    """Send a snapshot, in chunks, for as long as its record stands; say at the end whether it stood all along.

    Raises:
        OSError: the connection broke, or the peer takes nothing.
    """
    found = shelf.find(rank, (fence, step))
    whole = found is not None and _send_slot(link, *found)
    link.send_length(0)
    link.send({"whole": whole})


def _send_slot(link: Link, arena: Arena, index: int, record: Record) -> bool:
    try:
        file = os.open(arena.path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        start, sent = arena.offset(index), 0
        if os.fstat(file).st_size < start + record.length:
            return False
        while sent < record.length and arena.record(index) == record:
            length = min(_CHUNK, record.length - sent)
            link.send_length(length)
            _send_range(link, file, start + sent, length)
            sent += length
        return sent == record.length and arena.record(index) == record
    finally:
        os.close(file)


def _send_range(link: Link, file: int, start: int, length: int) -> None:
    """From the shared memory to the network without a copy in between (sendfile(2))."""
    link.socket.settimeout(_SEND_S)
    with os.fdopen(os.dup(file), "rb", buffering=0) as source:
        if link.socket.sendfile(source, start, length) != length:
            raise ConnectionError("the arena became shorter")


def ask_for(link: Link, holding: Holding) -> None:
    """Ask the peer for a snapshot."""
    link.send({"op": "get", "rank": holding.rank, "fence": holding.record.fence, "step": holding.record.step})


def receive(
    link: Link,
    draft: Draft,
    holding: Holding,
    clock: Clock,
    *,
    bucket: Callable[[int], Bucket | None] = lambda _: None,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Receive the snapshot that was asked for into a draft, and commit it there once its sum is right.

    Args:
        link: to the peer.
        draft: where it goes.
        holding: what the peer said that it is.
        clock: the time.
        bucket: what limits the rate after so many bytes; None: nothing does.
        progress: is told how many bytes are there.

    Raises:
        Overtaken: the peer has overwritten it meanwhile; the connection can be used again.
        OSError: the connection broke, or the peer sent something else.
        CheckpointError: all came, with another sum.
    """
    length = holding.record.length
    into, received = draft.arena.slot(draft.index)[:length], 0
    while chunk := link.receive_length():
        if chunk > length - received:
            raise ConnectionError(f"the peer sends more than the {length} bytes that it has announced")
        end = received + chunk
        while received < end:
            passed = link.receive_some(into[received : min(end, received + _PIECE)])
            received += passed
            limit = bucket(received)
            if limit is not None and (wait := limit.take(passed)) > 0:
                clock.sleep(wait)
        progress(received)
    if not link.receive().get("whole") or received != length:
        raise Overtaken(f"step {holding.record.step} of rank {holding.rank} was overwritten while it was read")
    draft.commit(holding.record)
