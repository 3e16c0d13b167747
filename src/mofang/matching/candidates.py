"""Every way to run a scenario on a pool, as columns: a structure of arrays, one row a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool, Precision
from mofang.domain.scenario import Scenario, StrategyChoice
from mofang.domain.strategy import Method, Offload, Recompute, Sharding
from mofang.matching.work import Work
from mofang.units import Range

__all__ = [
    "METHODS",
    "OFFLOADS",
    "PRECISIONS",
    "RECOMPUTES",
    "SHARDINGS",
    "Candidates",
    "Layouts",
    "enumerate_candidates",
    "layouts",
]

Ints = NDArray[np.int64]

# What the codes in the columns stand for.
PRECISIONS = tuple(Precision)
SHARDINGS = tuple(Sharding)
RECOMPUTES = tuple(Recompute)
METHODS = tuple(Method)
OFFLOADS = tuple(Offload)

_OPEN_END = 1024  # devices looked at where a range has no end


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """How many nodes, devices, workers and threads; one row a layout."""

    nodes: Ints
    devices: Ints
    workers: Ints
    threads: Ints

    def __len__(self) -> int:
        return len(self.nodes)

    def where(self, mask: NDArray[np.bool_]) -> Layouts:
        """Return the rows that ``mask`` keeps."""
        return replace(self, **{field.name: getattr(self, field.name)[mask] for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """One row a candidate. Codes index ``PRECISIONS``, ``SHARDINGS``, ``RECOMPUTES``, ``METHODS`` and ``OFFLOADS``."""

    nodes: Ints
    devices: Ints
    threads: Ints
    dp: Ints
    tp: Ints
    pp: Ints
    cp: Ints
    ep: Ints
    vpp: Ints
    micro_batch: Ints
    accumulation: Ints
    precision: Ints
    recompute: Ints
    sharding: Ints
    compile: Ints
    method: Ints
    offload: Ints

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def workers(self) -> Ints:
        """Ranks of the job."""
        return self.devices // self.threads

    def where(self, mask: NDArray[np.bool_] | Ints | slice) -> Candidates:
        """Return the rows that ``mask`` (or indices, or a slice) keeps."""
        return replace(self, **{field.name: getattr(self, field.name)[mask] for field in fields(self)})


def layouts(pool: Pool, counts: Range, scenario: Scenario) -> Layouts:
    """Return the layouts of a number of devices in ``counts`` on the pool; nodes are used evenly.

    On cores a worker may have several threads; on accelerators a worker is a device, and more than one node means whole
    nodes unless the user says how many nodes.
    """
    most = _OPEN_END if counts.maximum is None else counts.maximum
    most = max(most, counts.minimum)
    wanted = scenario.resources.nodes
    node_counts = np.arange(1, -(-most // pool.devices_per_node) + 1) if wanted is None else np.array([wanted])
    if pool.is_cpu:
        found = _core_layouts(pool.devices_per_node, node_counts)
    else:
        found = _device_layouts(pool.devices_per_node, node_counts, whole_nodes=wanted is None)
    there = -(-(most if pool.counts.maximum is None else pool.counts.maximum) // pool.devices_per_node)
    return found.where((found.devices >= max(1, counts.minimum)) & (found.devices <= most) & (found.nodes <= there))


def _device_layouts(per_node: int, node_counts: Ints, *, whole_nodes: bool) -> Layouts:
    nodes, on_node = (grid.ravel() for grid in np.meshgrid(node_counts, np.arange(1, per_node + 1), indexing="ij"))
    keep = (nodes == 1) | (on_node == per_node) | (not whole_nodes)
    nodes, on_node = nodes[keep], on_node[keep]
    return Layouts(nodes=nodes, devices=nodes * on_node, workers=nodes * on_node, threads=np.ones_like(nodes))


def _core_layouts(cores: int, node_counts: Ints) -> Layouts:
    sizes = _round_sizes(cores)
    grids = np.meshgrid(node_counts, sizes, sizes, indexing="ij")
    nodes, workers, threads = (grid.ravel() for grid in grids)
    keep = workers * threads <= cores
    nodes, workers, threads = nodes[keep], workers[keep], threads[keep]
    return Layouts(nodes=nodes, devices=nodes * workers * threads, workers=nodes * workers, threads=threads)


def _round_sizes(cores: int) -> Ints:
    """Return 1, 2, 4 ... and what divides all cores: enough to find the best without trying every number."""
    powers = [1 << power for power in range(cores.bit_length()) if 1 << power <= cores]
    whole = [size for size in range(1, cores + 1) if cores % size == 0]
    return np.array(sorted({*powers, *whole}), dtype=np.int64)


def enumerate_candidates(task: Work, pool: Pool, found: Layouts) -> Candidates:
    """Return every combination of layout, micro-batch, precision, recompute, sharding and compilation.

    Only whole batches are made: micro-batch x accumulation x dp is the global batch exactly. ``found`` must hold
    layouts whose number of workers divides the global batch.
    """
    choice = task.strategy
    axes = (
        np.arange(len(found)),
        _micro_batches(task.global_batch, choice),
        np.array([PRECISIONS.index(precision) for precision in precisions(choice, pool)]),
        _codes(RECOMPUTES, choice.recompute, (Recompute.NONE, Recompute.FULL)),
        _codes(SHARDINGS, None if choice.sharding is Sharding.NONE else choice.sharding, (Sharding.DDP, Sharding.FSDP)),
        np.array(_compile_choices(choice, pool)),
    )
    layout, micro_batch, precision, recompute, sharding, compiled = (
        grid.ravel() for grid in np.meshgrid(*axes, indexing="ij")
    )
    workers = found.workers[layout]
    # One rank shares nothing: of its two sharding rows one is kept, as "none".
    alone = workers == 1
    first = sharding == sharding.min(initial=len(SHARDINGS))
    keep = (task.global_batch % (workers * micro_batch) == 0) & (~alone | first)
    ones = np.ones_like(workers)
    return Candidates(
        nodes=found.nodes[layout],
        devices=found.devices[layout],
        threads=found.threads[layout],
        dp=workers,
        tp=ones,
        pp=ones,
        cp=ones,
        ep=ones,
        vpp=ones,
        micro_batch=micro_batch,
        accumulation=task.global_batch // np.maximum(workers * micro_batch, 1),
        precision=precision,
        recompute=recompute,
        sharding=np.where(alone, 0, sharding),
        compile=compiled,
        method=ones * METHODS.index(Method.FULL),
        offload=ones * OFFLOADS.index(Offload.NONE),
    ).where(keep)


def _micro_batches(global_batch: int, choice: StrategyChoice) -> Ints:
    sizes = [size for size in range(1, global_batch + 1) if global_batch % size == 0]
    return np.array([size for size in sizes if choice.micro_batch in {None, size}], dtype=np.int64)


def _codes(values: Sequence[object], fixed: object | None, free: Sequence[object]) -> Ints:
    """Return the code of the fixed value, or those of all free ones."""
    return np.array([list(values).index(value) for value in ([fixed] if fixed is not None else free)])


def precisions(choice: StrategyChoice, pool: Pool) -> tuple[Precision, ...]:
    """Return the precisions to try: the user's, else both on cores, else the fastest the recipe knows on the chip."""
    if choice.precision is not None:
        return (choice.precision,)
    if pool.is_cpu:
        return (Precision.FP32, Precision.BF16)
    known = pool.accelerator.peak_flops
    return tuple(p for p in (Precision.BF16, Precision.TF32, Precision.FP32) if p in known)[:1]


def _compile_choices(choice: StrategyChoice, pool: Pool) -> list[int]:
    if choice.compile is not None:
        return [int(choice.compile)]
    return [0] if pool.is_cpu else [0, 1]
