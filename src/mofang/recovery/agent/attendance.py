"""Which nodes of an attempt answer, which of them are free to take part, and which are given up. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from mofang.recovery.agent.messages import Hello

__all__ = ["ABSENT_S", "Attendance"]

ABSENT_S = 8.0  # an agent away for this long is given up, its node with it: one that was killed is soon started again


@dataclass(slots=True, kw_only=True)
class Attendance:
    """Who is there.

    Attributes:
        hellos: the last word of every node that answers.
        ready: the nodes that answer and on which nothing of any generation is left.
        excluded: the nodes that were at fault: they take part no more.
        ports: a free port on each node that answers.
    """

    size: int
    now: float
    excluded: set[int] = field(default_factory=set)
    hellos: dict[int, Hello] = field(init=False, default_factory=dict)
    ready: set[int] = field(init=False, default_factory=set)
    ports: dict[int, int] = field(init=False, default_factory=dict)
    _absent_since: dict[int, float] = field(init=False)

    def __post_init__(self) -> None:
        self._absent_since = dict.fromkeys(range(self.size), self.now)

    def welcome(self, hello: Hello) -> None:
        """Take in that a node answers."""
        self.hellos[hello.node] = hello
        self.ports[hello.node] = hello.port
        self._absent_since.pop(hello.node, None)
        self.ready.discard(hello.node)
        if hello.idle or hello.generation == 0:  # 0: no worker was ever started
            self.ready.add(hello.node)

    def lose(self, node: int, now: float, *, silent: bool) -> None:
        """Take in that a connection broke: its node may come back soon, or it was ``silent`` and is given up."""
        self.hellos.pop(node, None)
        self.ready.discard(node)
        self._absent_since[node] = now - (ABSENT_S if silent else 0.0)

    def clear(self, node: int, port: int) -> None:
        """Take in that nothing is left on a node."""
        if node in self.hellos:
            self.ready.add(node)
            self.ports[node] = port

    def occupy(self, nodes: Collection[int]) -> None:
        """Take in that nodes take part from now on."""
        self.ready -= set(nodes)

    @property
    def available(self) -> set[int]:
        """The nodes that could take part in a new generation now."""
        return self.ready - self.excluded

    def is_lost(self, node: int, now: float) -> bool:
        """Whether the node is given up."""
        since = self._absent_since.get(node)
        return since is not None and now - since >= ABSENT_S

    def may_come(self, nodes: Collection[int], now: float) -> bool:
        """Whether one of these may be available soon that is not yet."""
        return any(node not in self.available | self.excluded and not self.is_lost(node, now) for node in nodes)
