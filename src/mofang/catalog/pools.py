"""Hardware that is only described (``H100:8..64``): the pool it would be, from facts and stated assumptions.

The assumptions are data: ``data/nodes.csv`` says what a typical node of a chip is, ``data/links.csv`` how long the
first byte takes. A *node* here is what the scale-up link joins: eight chips in most servers, a rack for NVL72, a pod
for TPUs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from mofang.catalog.knowledge import Catalog
from mofang.catalog.rows import read_rows
from mofang.catalog.schema import Column, Schema, count, number, text
from mofang.catalog.table import DATA
from mofang.domain.hardware import Accelerator, Link, Pool, Server
from mofang.units import DeviceRequest

__all__ = ["described_pool"]

_GB = 1e9  # bytes
_GBIT = 1e9 / 8  # bytes

_NODES = Schema(
    Column("accelerator", text, ...),
    Column("devices_per_node", count, ...),
    Column("network_gbit_per_s_per_device", number, ...),
    Column("host_memory_gb", number, ...),
    Column("source", text, ...),
)
_LINKS = Schema(
    Column("link", text, ...),
    Column("latency_us", number, ...),
    Column("both_ways_gb_per_s", number, 0.0),
    Column("source", text, ...),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TypicalNode:
    devices: int
    network: float  # bytes/s a device, one way
    memory_bytes: int


def described_pool(request: DeviceRequest, catalog: Catalog) -> Pool:
    """Return the pool that a request describes; its ``cluster`` is empty.

    The links are as one device sees them, one way: half of what the data sheet counts both ways. Inside a node the
    scale-up link is used where it joins the whole node, PCIe otherwise.

    Raises:
        CatalogError: the catalogue has no such accelerator.
    """
    accelerator = catalog.accelerator(request.name)
    node = _typical_node(accelerator, catalog)
    return Pool(
        cluster="",
        accelerator=accelerator,
        devices_per_node=node.devices,
        counts=request.count,
        intra=_intra(accelerator, node.devices),
        inter=Link(latency_s=_latency("network"), bandwidth=node.network),
        node_memory_bytes=node.memory_bytes,
        price_per_device_hour=catalog.prices.per_hour(accelerator.name),
    )


def _typical_node(accelerator: Accelerator, catalog: Catalog) -> _TypicalNode:
    """Return the stated node of this chip, else the commonest server with it, else the default of its kind."""
    row = _nodes().get(accelerator.name) or _default(accelerator)
    stated = _TypicalNode(
        devices=row["devices_per_node"],
        network=row["network_gbit_per_s_per_device"] * _GBIT,
        memory_bytes=round(row["host_memory_gb"] * _GB),
    )
    servers = [server for server in catalog.servers if server.accelerator == accelerator.name]
    if accelerator.name in _nodes() or not servers:
        return stated
    return _commonest(servers, stated)


def _default(accelerator: Accelerator) -> dict[str, Any]:
    modules = _nodes()["default: scale-up"]
    joined = accelerator.scaleup_bandwidth > 0 and accelerator.scaleup_domain >= modules["devices_per_node"]
    return modules if joined else _nodes()["default: PCIe"]


def _commonest(servers: list[Server], default: _TypicalNode) -> _TypicalNode:
    sizes = Counter(server.num_accelerators for server in servers)
    devices = max(sizes, key=lambda size: (sizes[size], size))
    alike = [server for server in servers if server.num_accelerators == devices]
    networks = [server.network_bandwidth for server in alike if server.network_bandwidth]
    memories = [server.host_memory_bytes for server in alike if server.host_memory_bytes]
    return _TypicalNode(
        devices=devices,
        network=median(networks) if networks else default.network,
        memory_bytes=round(median(memories)) if memories else default.memory_bytes,
    )


def _intra(accelerator: Accelerator, devices: int) -> Link:
    if accelerator.scaleup_bandwidth and accelerator.scaleup_domain >= devices:
        return Link(latency_s=_latency("scale-up"), bandwidth=accelerator.scaleup_bandwidth / 2)
    both_ways = accelerator.pcie_bandwidth or _links()["PCIe"]["both_ways_gb_per_s"] * _GB
    return Link(latency_s=_latency("PCIe"), bandwidth=both_ways / 2)


def _latency(link: str) -> float:
    return float(_links()[link]["latency_us"]) / 1e6


@cache
def _nodes() -> dict[str, dict[str, Any]]:
    return {row.cells["accelerator"]: _NODES.read(row) for row in read_rows(DATA / "nodes.csv")}


@cache
def _links() -> dict[str, dict[str, Any]]:
    return {row.cells["link"]: _LINKS.read(row) for row in read_rows(DATA / "links.csv")}
