"""Where a job may lie: devices over nodes, cut into ranks, and the micro-batch that each data-parallel rank takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.domain.hardware import Pool
from mofang.domain.scenario import StrategyChoice
from mofang.matching.candidates import Layouts
from mofang.matching.cuts import Cuts, cuts_of, divisors, expert_degrees
from mofang.matching.work import Work
from mofang.units import Range

__all__ = ["Places", "device_counts", "layouts"]

Ints = NDArray[np.int64]

_OPEN_END = 1024  # devices looked at where a range has no end
_MOST_TOKENS = 2**18  # of a micro-batch on accelerators: beyond, kernels gain nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Which numbers of devices a pool can give: the part of it that layouts depend on."""

    per_node: int
    least: int
    most: int
    nodes: int | None  # as the user fixed them
    most_nodes: int
    cores: bool

    @classmethod
    def of(cls, pool: Pool, counts: Range, nodes: int | None) -> Places:
        """Return the places of a pool for a number of devices in ``counts`` on ``nodes`` nodes (None: any)."""
        most = max(_OPEN_END if counts.maximum is None else counts.maximum, counts.minimum)
        there = most if pool.counts.maximum is None else pool.counts.maximum
        return cls(
            per_node=pool.devices_per_node,
            least=max(1, counts.minimum),
            most=most,
            nodes=nodes,
            # A node that is only described need not be full.
            most_nodes=-(-there // (pool.devices_per_node if pool.cluster else _round(pool.devices_per_node))),
            cores=pool.is_cpu,
        )

    def hosts(self, devices: Ints) -> Ints:
        """Return over how many nodes each number of devices is spread evenly; 0 where it cannot be.

        More than one node means whole nodes, or in nodes of no round size (72, 384) the largest power of two of each.
        """
        if self.nodes is not None:
            nodes = np.where((devices % self.nodes == 0) & (devices <= self.nodes * self.per_node), self.nodes, 0)
        else:
            round_size = _round(self.per_node)
            nodes = np.where(devices % round_size == 0, devices // round_size, 0)
            nodes = np.where(devices % self.per_node == 0, devices // self.per_node, nodes)
            nodes = np.where(devices <= self.per_node, 1, nodes)
        there = (devices >= self.least) & (devices <= self.most) & (nodes <= self.most_nodes)
        return np.where(there, nodes, 0)


def _round(per_node: int) -> int:
    """Return the largest power of two of a node's devices."""
    return 1 << (per_node.bit_length() - 1)


def device_counts(places: Places) -> Ints:
    """Return every number of devices that the places can give, whatever the batch."""
    if places.cores:
        return np.unique(_cores(places)[0])
    size = places.per_node if places.nodes is None else places.nodes
    inside = np.arange(1, places.per_node + 1) * (places.nodes or 1)
    whole = np.arange(1, places.most // size + 1) * size
    found = np.unique(np.concatenate([inside, whole]))
    return found[places.hosts(found) > 0]


def layouts(work: Work, framework: Framework, places: Places) -> Layouts:
    """Return every layout of the work that the framework can make and the user's choice leaves."""
    choice = work.strategy
    if places.cores:
        rows = _core_rows(places, choice, work.global_batch)
    else:
        cuts = cuts_of(work.model, work.sequence, choice, framework.cuts, places.per_node)
        rows = _device_rows(cuts, places, work.global_batch, choice)
    degrees = expert_degrees(work.model, choice.ep, framework)
    return _with_batches(rows, degrees, work, choice, cores=places.cores)


@lru_cache(maxsize=64)
def _batch_divisors(global_batch: int) -> Ints:
    return np.array(divisors(global_batch), dtype=np.int64)


def _device_rows(cuts: Cuts, places: Places, global_batch: int, choice: StrategyChoice) -> Layouts:
    """Return cuts x data-parallel degrees, each on the nodes it takes; the micro-batch is left at 1."""
    sizes = _batch_divisors(global_batch)
    index, replicas = (grid.ravel() for grid in np.meshgrid(np.arange(len(cuts.tp)), sizes, indexing="ij"))
    devices = cuts.ranks[index] * replicas
    nodes = places.hosts(devices)
    keep = nodes > 0
    for fixed, column in ((choice.dp, replicas), (choice.workers, devices), (choice.threads, np.ones_like(devices))):
        if fixed is not None:
            keep &= column == fixed
    keep &= (devices // np.maximum(nodes, 1)) % cuts.tp[index] == 0
    index, replicas, devices, nodes = index[keep], replicas[keep], devices[keep], nodes[keep]
    ones = np.ones_like(nodes)
    return Layouts(
        nodes=nodes,
        devices=devices,
        threads=ones,
        dp=replicas,
        tp=cuts.tp[index],
        pp=cuts.pp[index],
        cp=cuts.cp[index],
        ep=ones,
        vpp=cuts.vpp[index],
        micro_batch=ones,
    )


def _core_rows(places: Places, choice: StrategyChoice, global_batch: int) -> Layouts:
    devices, nodes, workers, threads = _cores(places)
    keep = global_batch % workers == 0
    for fixed, column in ((choice.dp, workers), (choice.workers, workers), (choice.threads, threads)):
        if fixed is not None:
            keep &= column == fixed
    if any(degree not in {None, 1} for degree in (choice.tp, choice.pp, choice.cp, choice.vpp, choice.ep)):
        keep &= False
    devices, nodes, workers, threads = devices[keep], nodes[keep], workers[keep], threads[keep]
    ones = np.ones_like(nodes)
    return Layouts(
        nodes=nodes,
        devices=devices,
        threads=threads,
        dp=workers,
        tp=ones,
        pp=ones,
        cp=ones,
        ep=ones,
        vpp=ones,
        micro_batch=ones,
    )


def _cores(places: Places) -> tuple[Ints, Ints, Ints, Ints]:
    """Return (cores, nodes, workers, threads): 1, 2, 4 ... of each a node, and what divides its cores."""
    cores = places.per_node
    powers = [1 << power for power in range(cores.bit_length()) if 1 << power <= cores]
    sizes = np.array(sorted({*powers, *divisors(cores)}), dtype=np.int64)
    most = min(places.most_nodes, -(-places.most // cores))
    node_counts = np.arange(1, most + 1) if places.nodes is None else np.array([places.nodes])
    nodes, workers, threads = (grid.ravel() for grid in np.meshgrid(node_counts, sizes, sizes, indexing="ij"))
    devices = nodes * workers * threads
    keep = (workers * threads <= cores) & (devices >= places.least) & (devices <= places.most)
    keep &= nodes <= places.most_nodes
    return devices[keep], nodes[keep], (nodes * workers)[keep], threads[keep]


def _with_batches(
    rows: Layouts, degrees: tuple[int, ...], work: Work, choice: StrategyChoice, *, cores: bool
) -> Layouts:
    """Return rows x expert degrees x micro-batches: only whole batches, and whole rounds of interleaved stages."""
    sizes = [size for size in divisors(work.global_batch) if choice.micro_batch in {None, size}]
    if not cores and choice.micro_batch is None:
        sizes = [size for size in sizes if size == 1 or size * work.sequence <= _MOST_TOKENS]
    axes = (np.arange(len(rows)), np.array(degrees, dtype=np.int64), np.array(sizes, dtype=np.int64))
    index, ep, micro_batch = (grid.ravel() for grid in np.meshgrid(*axes, indexing="ij"))
    dp, pp = rows.dp[index], rows.pp[index]
    keep = work.global_batch % (dp * micro_batch) == 0
    keep &= (dp * rows.cp[index] * rows.tp[index]) % ep == 0
    keep &= (rows.vpp[index] == 1) | ((work.global_batch // (dp * micro_batch)) % pp == 0)
    return replace(rows.where(index[keep]), ep=ep[keep], micro_batch=micro_batch[keep])
