"""Keeping the copies of one other node: looking at what it has committed, and pulling the newest that is whole.

A copy is of a step as a whole: the newest that all ranks of the owner have. The step that is whole here already stays
until the next one is, so that the loss of the owner at any moment leaves one. There is no queue: what came meanwhile is
skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mofang.clock import Clock
from mofang.recovery.replica.config import Address, ServerConfig
from mofang.recovery.replica.notes import Notes
from mofang.recovery.replica.pace import Pace
from mofang.recovery.replica.partners import Keeper
from mofang.recovery.replica.shelf import Holding, Shelf, Stamp, stamp
from mofang.recovery.replica.transfer import Overtaken, ask_for, receive
from mofang.recovery.replica.wire import Link, connect
from mofang.recovery.replica.world import World, common, in_step
from mofang.recovery.snapshot.arena import Record

__all__ = ["Watch", "ask_list"]

_CONNECT_S = 2.0
_SURE_S = 5.0  # after which all is looked at again though the owner has nothing new
_PATIENCE = 2.0  # a copy that was overtaken waits so many times its duration for a fresh snapshot


def ask_list(link: Link) -> list[Holding]:
    """Return what the peer has.

    Raises:
        OSError: the connection broke, or it answered something else.
    """
    link.send({"op": "list"})
    listed = link.receive().get("holdings")
    if not isinstance(listed, list):
        raise ConnectionError("the peer did not answer with a list")
    return [Holding.from_wire(fields) for fields in listed]


class Watch:
    """Keeps the copies of one owner, when it is this node's turn.

    Args:
        config: of the server.
        owner: whose copies.
        before: the nodes that are asked before this one.
        shelf: where the copies go.
        world: what all watches share.
        pace: how fast.
        notes: where to report.
        book: where the other servers listen.
        clock: the time.
    """

    def __init__(
        self,
        config: ServerConfig,
        owner: int,
        before: tuple[int, ...],
        *,
        shelf: Shelf,
        world: World,
        pace: Pace,
        notes: Notes,
        book: Callable[[int], Address | None],
        clock: Clock,
    ) -> None:
        self._config, self._owner, self._before = config, owner, before
        self._shelf, self._world, self._pace, self._notes = shelf, world, pace, notes
        self._book, self._clock = book, clock
        self._link: Link | None = None
        self._settled: list[Holding] = []  # what the owner had when there was nothing left to do ...
        self._settled_until = 0.0  # ... and how long that is good for
        self._beyond: Stamp | None = None  # only what is newer is pulled ...
        self._until = 0.0  # ... before this time

    def look(self) -> None:
        """Look once, and pull what there is to pull.

        Raises:
            OSError: the owner cannot be reached, or the connection broke; the next look connects again.
            CheckpointError: there is no memory for a copy, or it arrived corrupt.
            Busy: somebody else writes to one of the arenas.
        """
        part = self._world.my_part(self._owner, self._before)
        if part is None:
            self._world.leave(self._owner)
            self.close()
            return
        try:
            self._follow(self._connected(), part)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _connected(self) -> Link:
        if self._link is None:
            where = self._book(self._owner)
            if where is None:
                raise ConnectionError(f"node {self._owner} has not said where it listens")
            self._link = connect(where, self._config.token, self._config.node, self._clock, _CONNECT_S)
        return self._link

    def _follow(self, link: Link, part: Keeper) -> None:
        listed = ask_list(link)
        self._world.heard(self._owner)
        if listed == self._settled and self._clock.monotonic() < self._settled_until:
            return
        self._settled = []
        ranks = in_step(item for item in listed if item.kind == "snapshot")
        self._world.note(self._owner, ranks, {item for held in ranks.values() for item in held})
        self._drop_rolled_back(ranks)
        target = common(ranks.values())
        if target is None or self._is_waiting_for_a_fresh_one(target):
            return
        kept = self._kept(ranks)
        wanted = [held[target] for rank, held in ranks.items() if kept[rank].get(target) != held[target].record]
        if wanted:
            self._pull_all(link, wanted, _to_spare(kept, ranks), part)
        else:
            self._settled, self._settled_until = listed, self._clock.monotonic() + _SURE_S

    def _is_waiting_for_a_fresh_one(self, target: Stamp) -> bool:
        """After a loss, the snapshot that is newest now would be overtaken too: its time is half over."""
        if self._until <= self._clock.monotonic():
            return False
        if self._beyond is None:
            self._beyond = target
        return target <= self._beyond

    def _kept(self, ranks: Iterable[int]) -> dict[int, dict[Stamp, Record]]:
        kept: dict[int, dict[Stamp, Record]] = {rank: {} for rank in ranks}
        for item in self._shelf.holdings():
            if item.kind == "replica" and item.rank in kept:
                kept[item.rank][stamp(item.record)] = item.record
        return kept

    def _pull_all(self, link: Link, wanted: list[Holding], spare: Stamp | None, part: Keeper) -> None:
        began = self._clock.monotonic()
        try:
            for item in wanted:
                self._pull(link, item, spare)
        except Overtaken:
            self._pace.lost()
            self._notes.overtaken(self._owner)
            now = self._clock.monotonic()
            self._beyond, self._until = None, now + _PATIENCE * (now - began)
            return
        self._until = 0.0
        self._notes.replicated(
            self._owner,
            wanted[0].record.step,
            sum(item.record.length for item in wanted),
            self._clock.monotonic() - began,
            apart=part.apart,
        )

    def _pull(self, link: Link, item: Holding, spare: Stamp | None) -> None:
        with self._shelf.draft(item.rank, item.record.length, item.slot_bytes, spare) as draft:
            ask_for(link, item)
            receive(link, draft, item, self._clock, bucket=self._pace.limiter(self._clock))
        record = item.record
        told = {"op": "kept", "node": self._config.node, "rank": item.rank, "fence": record.fence, "step": record.step}
        link.send(told)
        link.receive()

    def _drop_rolled_back(self, ranks: dict[int, dict[Stamp, Holding]]) -> None:
        """What the owner has thrown away to go on from an older step must not be found again on its peers."""
        for rank, kept in self._kept(ranks).items():
            held = ranks[rank]

            def stale(record: Record, held: dict[Stamp, Holding] = held) -> bool:
                this = stamp(record)
                if this in held:
                    return held[this].record != record
                return this > min(held) or any(fence > this[0] and step <= this[1] for fence, step in held)

            if any(stale(record) for record in kept.values()):
                self._shelf.forget(rank, stale)


def _to_spare(kept: dict[int, dict[Stamp, Record]], ranks: dict[int, dict[Stamp, Holding]]) -> Stamp | None:
    """Return the copy that must stay while another one comes: the newest whole one, if possible one the owner has too.

    The owner may have overwritten its newer slot, where the older one was still being written to the disk.
    """
    both = common([set(kept[rank]) & set(held) for rank, held in ranks.items()])
    return both or common(kept.values())
