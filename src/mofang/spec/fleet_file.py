"""Fleet files: hardware that one has, or thinks of buying, as YAML -> pools, and pools -> YAML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PlainValidator, WithJsonSchema

from mofang.catalog.knowledge import Catalog
from mofang.catalog.pools import described_pool
from mofang.domain.hardware import CPU, Link, Pool
from mofang.errors import MofangError, SpecError, UnitError
from mofang.spec.document import Document, parse_document
from mofang.spec.problems import read_as
from mofang.spec.quantities import Bytes, Name, PositiveCount, refuse
from mofang.spec.schema import Section
from mofang.units import DeviceRequest, Range, format_bytes, format_rate, parse_rate

__all__ = ["FleetFile", "fleet_to_yaml", "load_fleet_file", "parse_fleet_file"]


def _above_zero(parse: Callable[[Any], float]) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        try:
            number = parse(value)
            if number <= 0:
                raise UnitError("must be more than nothing", hint="write it like 400Gb/s or 450GB/s")
        except MofangError as error:
            raise refuse(error.message, error.hint) from error
        return number

    return check


Rate = Annotated[
    float,
    PlainValidator(_above_zero(parse_rate)),
    WithJsonSchema({"type": ["string", "number"], "examples": ["400Gb/s", "450GB/s"]}),
]


class NodeKeys(Section):
    """Nodes alike. What is left out is as the catalogue describes a typical node of these chips."""

    accelerator: str = Field(min_length=1, description="a name of the catalogue, or cpu")
    count: PositiveCount = Field(default=1, description="how many such nodes")
    devices: PositiveCount | None = Field(default=None, description="chips (or cores) in each")
    memory: Bytes | None = Field(default=None, description="host memory of each")
    device_memory: Bytes | None = Field(default=None, description="memory of one chip")
    link: Rate | None = Field(default=None, description="inside the node, one device, one way")
    network: Rate | None = Field(default=None, description="between nodes, one device, one way")
    price: float | None = Field(default=None, gt=0, description="one device for one hour")


class ClusterKeys(Section):
    """Nodes under one scheduler."""

    name: Name = Field(description="what plans call it")
    nodes: list[NodeKeys] = Field(min_length=1, description="groups of nodes alike")


class FleetFile(Section):
    """Hardware to plan for."""

    kind: Literal["fleet"] = Field(description="a fleet")
    version: Literal[1] = Field(default=1, description="of this format")
    clusters: list[ClusterKeys] = Field(min_length=1, description="all clusters")


def load_fleet_file(path: Path, catalog: Catalog) -> tuple[Pool, ...]:
    """Read a fleet file.

    Raises:
        SpecError: the file cannot be read or is wrong; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SpecError(f"{path}: the fleet file cannot be read: {reason}", hint="is the path right?") from error
    return parse_fleet_file(text, str(path), catalog)


def parse_fleet_file(text: str, source: str, catalog: Catalog) -> tuple[Pool, ...]:
    """Read a fleet from text; see ``load_fleet_file``."""
    document = parse_document(text, source)
    file = read_as(FleetFile, document)
    names = [cluster.name for cluster in file.clusters]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise document.error(("clusters", index, "name"), f"there are two clusters {name!r}", "rename one")
    return tuple(
        _pool(document, ("clusters", place, "nodes", index), cluster.name, keys, catalog)
        for place, cluster in enumerate(file.clusters)
        for index, keys in enumerate(cluster.nodes)
    )


def _pool(document: Document, path: tuple[str | int, ...], cluster: str, keys: NodeKeys, catalog: Catalog) -> Pool:
    name = CPU if keys.accelerator.lower() == CPU else keys.accelerator
    with document.blame(*path, "accelerator"):
        pool = described_pool(DeviceRequest(name, Range(1, 1)), catalog)
    devices = keys.devices or pool.devices_per_node
    chip = pool.accelerator
    if keys.device_memory is not None:
        chip = replace(chip, memory_bytes=keys.device_memory)
    return replace(
        pool,
        cluster=cluster,
        accelerator=chip,
        devices_per_node=devices,
        counts=Range(1, devices * keys.count),
        intra=_link(pool.intra, keys.link),
        inter=_link(pool.inter, keys.network),
        node_memory_bytes=keys.memory or pool.node_memory_bytes,
        price_per_device_hour=keys.price or pool.price_per_device_hour,
    )


def _link(known: Link, bandwidth: float | None) -> Link:
    return known if bandwidth is None else replace(known, bandwidth=bandwidth)


def fleet_to_yaml(pools: Sequence[Pool]) -> str:
    """Return the fleet file of these pools; what was measured on their hosts stays with the hosts."""
    clusters: dict[str, list[dict[str, Any]]] = {}
    for pool in pools:
        clusters.setdefault(pool.cluster or "described", []).append(_keys(pool))
    listed = [{"name": name, "nodes": nodes} for name, nodes in clusters.items()]
    content = {"kind": "fleet", "version": 1, "clusters": listed}
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    return text


def _keys(pool: Pool) -> dict[str, Any]:
    most = pool.counts.maximum or pool.counts.minimum
    values = {
        "accelerator": pool.accelerator.name,
        "count": max(1, most // pool.devices_per_node),
        "devices": pool.devices_per_node,
        "memory": format_bytes(pool.node_memory_bytes) if pool.node_memory_bytes else None,
        "device_memory": format_bytes(pool.accelerator.memory_bytes) if pool.accelerator.memory_bytes else None,
        "link": format_rate(pool.intra.bandwidth) if pool.intra.bandwidth else None,
        "network": format_rate(pool.inter.bandwidth) if pool.inter.bandwidth else None,
        "price": pool.price_per_device_hour,
    }
    return {key: value for key, value in values.items() if value is not None}
