"""Chips, servers, nodes and fleets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mofang.domain.rates import HostRates
from mofang.errors import CatalogError
from mofang.units import Range

__all__ = [
    "CPU",
    "Accelerator",
    "Cluster",
    "Device",
    "Fleet",
    "Link",
    "Node",
    "NodeState",
    "Pool",
    "Precision",
    "Server",
]

CPU = "cpu"  # the device kind of one processor core


class Precision(StrEnum):
    """Number formats that matrix products run in."""

    FP64 = "fp64"
    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    INT8 = "int8"
    FP4 = "fp4"

    @property
    def bytes(self) -> float:
        """Bytes of one element in memory."""
        sizes = {"fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "fp4": 0.5}
        return sizes[self.value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A kind of chip. Peaks are dense FLOP/s; bandwidths are bytes/s; memory is bytes."""

    name: str
    vendor: str
    memory_bytes: int
    memory_bandwidth: float
    peak_flops: Mapping[Precision, float]
    architecture: str = ""
    year: int | None = None
    memory_type: str = ""
    scaleup_link: str = ""
    scaleup_bandwidth: float = 0.0  # per accelerator, both directions together; 0: PCIe only
    scaleup_domain: int = 1
    pcie_generation: int | None = None
    pcie_bandwidth: float = 0.0  # both directions together
    tdp_w: float | None = None
    form_factor: str = ""
    aliases: tuple[str, ...] = ()
    source: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise CatalogError("an accelerator needs a name")
        if self.memory_bytes < 0 or self.memory_bandwidth < 0:
            raise CatalogError(f"accelerator {self.name}: memory and bandwidth cannot be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A kind of machine: which accelerators it carries, and how they are connected."""

    name: str
    vendor: str
    accelerator: str
    num_accelerators: int
    interconnect: str = ""
    nics: str = ""
    network_bandwidth: float | None = None  # bytes/s per accelerator, one direction; None: not published
    cpu: str = ""
    num_cpus: int | None = None
    host_memory_bytes: int | None = None
    power_w: float | None = None
    cooling: str = ""
    rack_units: int | None = None
    source: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A connection as one device sees it: seconds for the first byte, bytes/s one way after it."""

    latency_s: float
    bandwidth: float


class NodeState(StrEnum):
    """Whether a node can take work."""

    UP = "up"
    DRAINING = "draining"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One physical chip, or one processor core where ``accelerator`` is ``cpu``."""

    index: int
    accelerator: str
    memory_bytes: int = 0  # 0 for a core: it shares the node's memory
    uuid: str = ""
    healthy: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A host and its devices. A host with chips also lists its cores, as devices of kind ``cpu``."""

    name: str
    cluster: str
    devices: tuple[Device, ...]
    cores: int
    memory_bytes: int
    disk_free_bytes: int = 0
    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()  # how to execute there: (), ("ssh", "host"), ("ip", "netns", "exec", "a")
    state: NodeState = NodeState.UP
    domain: str = ""  # what it fails together with: its rack or switch; "" where that is unknown
    labels: Mapping[str, str] = field(default_factory=dict)
    rates: HostRates | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Nodes under one backend."""

    name: str
    backend: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All clusters."""

    clusters: tuple[Cluster, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node of every cluster."""
        return tuple(node for cluster in self.clusters for node in cluster.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Devices of one kind that matching may use: present in a cluster, or only described.

    ``intra`` and ``inter`` connect devices inside a node and between nodes. For kind ``cpu`` a device is a core,
    ``node_memory_bytes`` is shared by all workers on a node, and a worker may use several cores.
    """

    cluster: str  # "" where the hardware is only described
    accelerator: Accelerator
    devices_per_node: int
    counts: Range  # how many devices may be used
    intra: Link
    inter: Link
    node_memory_bytes: int
    rates: HostRates | None = None  # measured; without them the catalogue's figures are used
    price_per_device_hour: float | None = None  # None: unknown, never zero

    @property
    def is_cpu(self) -> bool:
        """Whether the devices are processor cores."""
        return self.accelerator.name == CPU
