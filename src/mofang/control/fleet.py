"""The nodes of every backend, as they were last seen."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import replace

from mofang.backends.protocol import Backend
from mofang.domain.hardware import Cluster, Fleet, Node, NodeState
from mofang.domain.rates import HostRates
from mofang.errors import MofangError

__all__ = ["FleetWatch"]

_log = logging.getLogger(__name__)

_WATCH_S = 5.0


class FleetWatch:
    """Asks each backend for its nodes from time to time, on worker threads.

    Args:
        backends: by name.
        workers: where the calls run.
        rates: what probing measured, by host.
    """

    def __init__(self, backends: Mapping[str, Backend], workers: Executor, rates: Mapping[str, HostRates]) -> None:
        self._backends = backends
        self._workers = workers
        self._rates = dict(rates)
        self._seen: dict[str, tuple[Node, ...]] = {}
        self._calls: dict[str, Future[tuple[Node, ...]]] = {}
        self._next = 0.0

    @property
    def is_known(self) -> bool:
        """Whether every backend has been asked once."""
        return len(self._seen) == len(self._backends)

    @property
    def next_look(self) -> float:
        """When the backends are asked again."""
        return self._next

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, with its measured rates."""
        return tuple(node for nodes in self._seen.values() for node in nodes)

    def fleet(self) -> Fleet:
        """Return the nodes by cluster."""
        clusters = []
        for backend, nodes in self._seen.items():
            for name in dict.fromkeys(node.cluster for node in nodes):
                members = tuple(node for node in nodes if node.cluster == name)
                clusters.append(Cluster(name=name, backend=backend, nodes=members))
        return Fleet(clusters=tuple(clusters))

    def backend_of(self, cluster: str) -> Backend | None:
        """Return the backend that has this cluster."""
        for name, nodes in self._seen.items():
            if any(node.cluster == cluster for node in nodes):
                return self._backends[name]
        # Before the first look, or when all its nodes are gone: its jobs still have to be looked after.
        return self._backends.get(cluster, next(iter(self._backends.values()), None))

    def learn(self, rates: HostRates) -> None:
        """Use newly measured rates from now on."""
        self._rates[rates.host] = rates
        self._seen = {name: tuple(self._rated(node) for node in nodes) for name, nodes in self._seen.items()}

    def turn(self, now: float) -> bool:
        """Take answers, ask again where it is time; return whether anything that decisions rest on has changed."""
        if now >= self._next:
            self._next = now + _WATCH_S
            for name, backend in self._backends.items():
                if name not in self._calls:
                    self._calls[name] = self._workers.submit(backend.nodes)
        answered = [name for name, call in self._calls.items() if call.done()]
        changes = [self._take(name, self._calls.pop(name)) for name in answered]
        return any(changes)

    def _take(self, name: str, call: Future[tuple[Node, ...]]) -> bool:
        before = self._seen.get(name)
        try:
            nodes = tuple(self._rated(node) for node in call.result())
        except MofangError as error:
            _log.warning("backend %s: %s", name, error.message)
            nodes = tuple(replace(node, state=NodeState.DOWN) for node in before or ())
        self._seen[name] = nodes
        return before is None or [_matters(node) for node in before] != [_matters(node) for node in nodes]

    def _rated(self, node: Node) -> Node:
        rates = self._rates.get(node.name)
        return node if rates is None else replace(node, rates=rates)


def _matters(node: Node) -> Node:
    return replace(node, disk_free_bytes=0)
