"""What one server knows of the others: who answered lately, which ranks it keeps, how far the training has come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from mofang.clock import Clock
from mofang.recovery.replica.partners import Keeper, Partners
from mofang.recovery.replica.shelf import Holding, Stamp, stamp

__all__ = ["World", "common", "in_step"]


def in_step(snapshots: Iterable[Holding]) -> dict[int, dict[Stamp, Holding]]:
    """Return a node's own snapshots by rank, without the ranks that were left behind.

    A rank is left behind when another one has two snapshots that are newer than all of its own: it belonged to a world
    of another size.
    """
    ranks: dict[int, dict[Stamp, Holding]] = {}
    for item in snapshots:
        ranks.setdefault(item.rank, {})[stamp(item.record)] = item
    limit = max((min(held) for held in ranks.values() if len(held) > 1), default=(0, 0))
    return {rank: held for rank, held in ranks.items() if max(held) >= limit}


def common(ranks: Iterable[Iterable[Stamp]]) -> Stamp | None:
    """Return the newest stamp that all ranks have, or None."""
    sets = [set(stamps) for stamps in ranks]
    return max(set.intersection(*sets), default=None) if sets else None


@dataclass(slots=True, kw_only=True)
class World:
    """The state that the threads of a server share.

    Attributes:
        node: this node.
        partners: who is to keep whose copies.
        copies: how many.
        dead_s: seconds of silence after which a node is held to be gone.
        clock: the time.
    """

    node: int
    partners: Partners
    copies: int
    dead_s: float
    clock: Clock
    _heard: dict[int, float] = field(default_factory=dict)
    _kept: dict[int, frozenset[int]] = field(default_factory=dict)
    _seen: dict[int, frozenset[Stamp]] = field(default_factory=dict)
    _began: float = field(default=0.0)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._began = self.clock.monotonic()

    def heard(self, node: int) -> None:
        """Note that a node has answered."""
        with self._lock:
            self._heard[node] = self.clock.monotonic()

    def alive(self, node: int) -> bool:
        """Return whether a node has answered lately; at the beginning all have."""
        with self._lock:
            return self.clock.monotonic() - self._heard.get(node, self._began) <= self.dead_s

    def my_part(self, owner: int, before: Iterable[int]) -> Keeper | None:
        """Return how this node keeps the owner's copies, or None where others do.

        Args:
            owner: whose.
            before: the nodes that are asked before this one.
        """
        living = {self.node, *(node for node in before if self.alive(node))}
        chosen = self.partners.keepers(owner, self.copies, living)
        return next((keeper for keeper in chosen if keeper.node == self.node), None)

    def note(self, owner: int, ranks: Iterable[int], stamps: Iterable[Stamp]) -> None:
        """Note which ranks of an owner are kept here, and which snapshots it has."""
        with self._lock:
            self._kept[owner] = frozenset(ranks)
            self._seen[owner] = frozenset(stamps)

    def leave(self, owner: int) -> None:
        """Note that the owner's copies are not kept here now."""
        with self._lock:
            self._kept.pop(owner, None)

    def is_kept(self, rank: int) -> bool:
        """Return whether copies of this rank are kept here."""
        with self._lock:
            return any(rank in ranks for ranks in self._kept.values())

    def has_moved_past(self, newest: Stamp, own: Iterable[Stamp]) -> bool:
        """Return whether there are two newer snapshots than this one.

        Args:
            newest: what a replica holds at most.
            own: of this node's own ranks.
        """
        with self._lock:
            seen = frozenset(own).union(*self._seen.values())
        return sum(item > newest for item in seen) > 1
