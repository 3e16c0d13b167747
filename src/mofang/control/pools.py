"""From nodes, or from a description, to the pools of devices that matching reasons about."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mofang.domain.hardware import CPU, Node, NodeState, Pool
from mofang.errors import CatalogError, UsageError
from mofang.units import DeviceRequest, Range

if TYPE_CHECKING:
    from mofang.catalog.knowledge import Catalog
    from mofang.domain.rates import HostRates

__all__ = ["described_pools", "fleet_pools"]

_log = logging.getLogger(__name__)


def described_pools(requests: Sequence[DeviceRequest], catalog: Catalog) -> tuple[Pool, ...]:
    """Return a pool for each request of hardware that is only described.

    Raises:
        CatalogError: the catalogue has no such accelerator.
        UsageError: nothing is requested.
    """
    from mofang.catalog.pools import described_pool  # noqa: PLC0415 - tables are read when a plan is asked for

    if not requests:
        raise UsageError("no hardware is described", hint="write it like --hardware H100:8..64")
    return tuple(described_pool(request, catalog) for request in requests)


def fleet_pools(nodes: Iterable[Node], catalog: Catalog) -> tuple[Pool, ...]:
    """Return a pool for each cluster, kind of device and size of node; nodes that are down are left out.

    A kind of chip that the catalogue does not know is left out, with a line in the log.
    """
    groups: dict[tuple[str, str, int], list[Node]] = {}
    for node in nodes:
        if node.state is NodeState.UP:
            for kind, number in _healthy(node).items():
                groups.setdefault((node.cluster, kind, number), []).append(node)
    pools = (_pool(kind, number, members, catalog) for (_, kind, number), members in groups.items())
    return tuple(pool for pool in pools if pool is not None)


def _healthy(node: Node) -> dict[str, int]:
    counts: dict[str, int] = {}
    for device in node.devices:
        if device.healthy:
            counts[device.accelerator] = counts.get(device.accelerator, 0) + 1
    return counts


def _pool(kind: str, per_node: int, nodes: Sequence[Node], catalog: Catalog) -> Pool | None:
    """Return the described pool with what is known of these nodes in place of what is assumed."""
    from mofang.catalog.pools import described_pool  # noqa: PLC0415 - tables are read when a plan is asked for

    total = per_node * len(nodes)
    try:
        pool = described_pool(DeviceRequest(kind, Range(1, total)), catalog)
    except CatalogError as error:
        _log.warning("devices are left out: %s", error.message, extra={"nodes": [node.name for node in nodes]})
        return None
    memory = min(device.memory_bytes for node in nodes for device in node.devices if device.accelerator == kind)
    accelerator = pool.accelerator if kind == CPU or not memory else replace(pool.accelerator, memory_bytes=memory)
    return replace(
        pool,
        cluster=nodes[0].cluster,
        accelerator=accelerator,
        devices_per_node=per_node,
        node_memory_bytes=min(node.memory_bytes for node in nodes),
        rates=_slowest(nodes),
    )


def _slowest(nodes: Sequence[Node]) -> HostRates | None:
    """Return the rates of the node that a job over all of them would wait for; None where one is not measured."""
    rates = [node.rates for node in nodes if node.rates is not None]
    if len(rates) < len(nodes):
        return None
    return max(rates, key=lambda each: sum(row.seconds for row in each.operators))
