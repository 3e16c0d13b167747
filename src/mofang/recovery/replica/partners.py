"""Which node keeps copies of which node's snapshots. Pure.

Every node has an order in which others are asked to keep its copies; the first ones that live do. The order depends on
nothing but the list of nodes and their failure domains, so every node works it out alone, and a node that is lost moves
only the copies that it kept or made.

With the nodes in a row, domain by domain, and the largest domain ``m`` nodes wide, the node ``d`` places further on
(``m <= d <= n - m``, in a ring of ``n``) is in another domain, and everybody is asked by exactly one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = ["Keeper", "Partners"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """A node that keeps copies for another one; ``apart``: it is not known to fail together with it."""

    node: int
    apart: bool


class Partners:
    """Who keeps whose copies.

    Args:
        domains: the failure domain of every node; "" where it is unknown: such a node is held to fail alone.
    """

    def __init__(self, domains: Sequence[str]) -> None:
        self._domains = [domain or f"\0{node}" for node, domain in enumerate(domains)]
        sizes = Counter(self._domains)
        first = {domain: self._domains.index(domain) for domain in sizes}
        self._row = sorted(
            range(len(domains)), key=lambda node: (-sizes[self._domains[node]], first[self._domains[node]], node)
        )
        self._place = {node: place for place, node in enumerate(self._row)}
        self._largest = max(sizes.values(), default=0)
        self._orders: dict[int, tuple[int, ...]] = {}

    def order(self, owner: int) -> tuple[int, ...]:
        """Return all other nodes in the order in which they are asked to keep the owner's copies.

        Those of other domains come first.
        """
        if owner not in self._orders:
            asked = list(dict.fromkeys(self._asked(self._place[owner])))
            other = [node for node in asked if self._domains[node] != self._domains[owner]]
            same = [node for node in asked if self._domains[node] == self._domains[owner] and node != owner]
            self._orders[owner] = (*other, *same)
        return self._orders[owner]

    def keepers(self, owner: int, copies: int, alive: Collection[int]) -> tuple[Keeper, ...]:
        """Return who is to keep the owner's copies now.

        A node of the owner's own domain is chosen only where no living node is in another one; ``apart`` says so.

        Args:
            owner: whose copies.
            copies: how many there are to be.
            alive: the nodes that can keep something.
        """
        living = [node for node in self.order(owner) if node in alive]
        apart = [node for node in living if self._domains[node] != self._domains[owner]]
        chosen = apart or living
        return tuple(Keeper(node=node, apart=bool(apart)) for node in chosen[:copies])

    def candidates(self, keeper: int, depth: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Return the owners that may ask a node, each with those that are asked before it.

        Args:
            keeper: the node.
            depth: how far down the owners' orders to look.
        """
        found = []
        for owner in range(len(self._row)):
            asked = self.order(owner)[:depth] if owner != keeper else ()
            if keeper in asked:
                found.append((owner, asked[: asked.index(keeper)]))
        return tuple(found)

    def _asked(self, place: int) -> list[int]:
        count, wide = len(self._row), self._largest
        if 2 * wide > count:
            return self._asked_by_most(place)
        steps = [step for step in range(wide, count - wide + 1) if step % wide == 0]
        steps += list(range(wide, count)) + list(range(1, wide))
        return [self._row[(place + step) % count] for step in steps]

    def _asked_by_most(self, place: int) -> list[int]:
        """One domain has more than half of the nodes; it comes first in the row, and the others share its copies."""
        most, rest = self._row[: self._largest], self._row[self._largest :]
        if place < len(most):
            return [*_turned(rest, place), *_turned(most, place)]
        return [*_turned(most, place - len(most)), *_turned(rest, place - len(most))]


def _turned(nodes: list[int], steps: int) -> list[int]:
    steps %= max(1, len(nodes))
    return nodes[steps:] + nodes[:steps]
