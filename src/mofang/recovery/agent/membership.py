"""Which nodes take part in a generation: seats, and who sits on them. Pure.

A job has as many seats as it was planned with nodes. Whoever sits stays seated, so ranks (and the snapshots in memory
that carry their numbers) stay where they are; a newcomer takes the seat of the one that was lost.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mofang.domain.launch import LaunchSpec
from mofang.recovery.rundir import AttemptDir, replace_file

__all__ = ["Seats", "Team", "members", "ranks_of", "read_seats", "write_seats"]

Seats = tuple[int | None, ...]  # the node on each seat; None: empty


def ranks_of(workers: Sequence[int], nodes: Sequence[int]) -> dict[int, range]:
    """Return the ranks of each node that takes part.

    Args:
        workers: how many each node of the attempt can run.
        nodes: those that take part, in the order of their ranks.
    """
    ranks, first = {}, 0
    for node in nodes:
        ranks[node] = range(first, first + workers[node])
        first += workers[node]
    return ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """The nodes of an attempt.

    Attributes:
        names: of the nodes, by index.
        workers: how many each runs when it takes part.
        spares: those that take part only once another is lost.
        min_nodes: with how few the attempt goes on; None: with all seats taken only.
    """

    names: tuple[str, ...]
    workers: tuple[int, ...]
    spares: frozenset[int] = frozenset()
    min_nodes: int | None = None

    @classmethod
    def of(cls, spec: LaunchSpec) -> Team:
        """Return the nodes of a launch specification."""
        return cls(
            names=tuple(node.node for node in spec.nodes),
            workers=tuple(node.workers for node in spec.nodes),
            spares=frozenset(index for index, node in enumerate(spec.nodes) if node.spare),
            min_nodes=spec.restart.min_nodes,
        )

    @property
    def home(self) -> Seats:
        """The seats as they were planned."""
        return tuple(index for index in range(len(self.names)) if index not in self.spares)

    def fill(self, seats: Seats, available: Collection[int]) -> Seats:
        """Return the seats with everybody gone who is not available, and the empty ones taken by whoever is.

        A node goes back to the seat it was planned for where that is free; spares sit down last.
        """
        kept = [node if node in available else None for node in seats]
        free = sorted(set(available) - set(kept), key=lambda node: (node in self.spares, node))
        for index, planned in enumerate(self.home):
            if kept[index] is None and planned in free:
                kept[index] = planned
                free.remove(planned)
        for index, node in enumerate(kept):
            if node is None and free:
                kept[index] = free.pop(0)
        return tuple(kept)

    def suffice(self, seats: Seats) -> bool:
        """Whether the attempt may go on with these."""
        taken = len(members(seats))
        return taken == len(seats) or (self.min_nodes is not None and taken >= max(1, self.min_nodes))

    def ranks(self, seats: Seats) -> dict[int, range]:
        """Return the ranks of each node that sits."""
        return ranks_of(self.workers, members(seats))

    def describe_change(self, before: Seats, now: Seats, excluded: Collection[int]) -> str:
        """Return who left, who came and how many there are, as one text."""
        gone, new = set(members(before)) - set(members(now)), set(members(now)) - set(members(before))
        bad = gone & set(excluded)
        told = ((gone - bad, "lost"), (bad, "excluded"), (new, "takes part" if len(new) == 1 else "take part"))
        said = [f"{self.describe(nodes)} {what}" for nodes, what in told if nodes]
        return f"{', '.join(said)}: {len(members(now))} of {len(now)} nodes"

    def describe(self, nodes: Collection[int]) -> str:
        """Return the names of nodes as one text."""
        return ", ".join(self.names[node] for node in sorted(nodes))


def read_seats(directory: AttemptDir, generation: int) -> Seats | None:
    """Return the seats of a generation as recorded; None where all are as planned."""
    try:
        record = json.loads(directory.seats.read_text())
        return tuple(record[str(generation)])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_seats(directory: AttemptDir, generation: int, seats: Seats) -> None:
    """Record the seats of a generation that is about to begin, beside those of the one before it.

    Raises:
        OSError: they cannot be written.
    """
    before = read_seats(directory, generation - 1)
    record = {str(generation): seats} | ({str(generation - 1): before} if before is not None else {})
    replace_file(directory.seats, json.dumps(record))


def members(seats: Seats) -> tuple[int, ...]:
    """Return the nodes that sit, in the order of their ranks."""
    return tuple(node for node in seats if node is not None)
