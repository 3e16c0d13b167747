"""The world that decisions are made on, as columns.

Axes: ``n`` nodes, ``k`` kinds of device, ``h`` holdings (one row for each node of each running job), ``w`` waiting
jobs, ``p`` plans of waiting jobs (those of job ``w`` are ``plan_start[w]:plan_start[w + 1]``), ``s`` shapes.
Devices and bytes are counts, times are seconds since the epoch; an end that nobody knows is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import CPU, Node, NodeState
from mofang.domain.job import Allocation
from mofang.domain.plan import Placement, Plan

__all__ = ["BoolColumn", "FloatColumn", "IntColumn", "RunningJob", "Shape", "View", "WaitingJob"]

IntColumn = NDArray[np.int64]
FloatColumn = NDArray[np.float64]
BoolColumn = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingJob:
    """A job that wants to start. It may not before ``not_before`` (seconds since the epoch).

    ``spare_nodes`` are held beside those of whichever plan it starts with.
    """

    id: str
    submitted_at: float
    plans: tuple[Plan, ...]  # best first
    priority: int = 0
    not_before: float = 0.0
    spare_nodes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A job that holds devices. ``expected_end`` None: nobody knows."""

    id: str
    allocation: Allocation
    node_memory_bytes: int = 0
    expected_end: float | None = None
    submitted_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # a view holds each once: identity is equality
class Shape:
    """What a plan asks of the fleet; plans alike share one. ``kind`` and ``pool`` are -1 where unknown."""

    cluster: str
    accelerator: str
    num_nodes: int  # spare ones included
    per_node: int
    memory_bytes: int  # on each node
    kind: int
    pool: int  # cluster and kind together: what jobs compete for


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A read-only, columnar copy of the world; the module's docstring names the axes."""

    nodes: tuple[str, ...]  # n
    clusters: tuple[str, ...]  # n
    kinds: tuple[str, ...]  # k
    up: BoolColumn  # n
    memory: IntColumn  # n: host memory
    free_memory: IntColumn  # n
    chips: IntColumn  # n: healthy devices that are no cores
    healthy: IntColumn  # n, k
    free: IntColumn  # n, k: healthy and held by nobody
    idle: tuple[Mapping[int, tuple[int, ...]], ...]  # n: kind -> the indices of the free devices
    running_ids: tuple[str, ...]
    running_end: FloatColumn
    held_job: IntColumn  # h: position in running_ids
    held_node: IntColumn  # h
    held_kind: IntColumn  # h
    held_count: IntColumn  # h: healthy devices that become free at the end
    held_memory: IntColumn  # h
    waiting_ids: tuple[str, ...]  # w
    priority: IntColumn  # w
    submitted_at: FloatColumn  # w
    not_before: FloatColumn  # w
    plan_start: IntColumn  # w + 1
    plan_shape: IntColumn  # p
    plan_seconds: FloatColumn  # p: predicted running time
    shapes: tuple[Shape, ...]  # s
    in_cluster: Mapping[str, BoolColumn]  # cluster -> n

    @classmethod
    def build(cls, nodes: Sequence[Node], running: Sequence[RunningJob], waiting: Sequence[WaitingJob]) -> View:
        """Return the view of these nodes and jobs; holdings on nodes that are not there are left out."""
        nodes = sorted(nodes, key=lambda node: (node.cluster, node.name))
        kinds = tuple(sorted({device.accelerator for node in nodes for device in node.devices}))
        kind_of = {kind: index for index, kind in enumerate(kinds)}
        holdings = _Holdings.of(nodes, running, kind_of)
        healthy, free, idle = _devices(nodes, kind_of, holdings.busy)
        clusters = tuple(node.cluster for node in nodes)
        memory = np.array([node.memory_bytes for node in nodes], dtype=np.int64)
        chips = [index for index, kind in enumerate(kinds) if kind != CPU]
        return cls(
            nodes=tuple(node.name for node in nodes),
            clusters=clusters,
            kinds=kinds,
            up=np.array([node.state is NodeState.UP for node in nodes], dtype=np.bool_),
            memory=memory,
            free_memory=np.maximum(memory - holdings.memory, 0),
            chips=healthy[:, chips].sum(axis=1),
            healthy=healthy,
            free=free,
            idle=idle,
            **holdings.columns(),
            **_waiting_columns(waiting, kind_of, clusters),
            in_cluster={name: np.array([cluster == name for cluster in clusters]) for name in set(clusters)},
        )

    def order(self) -> list[int]:
        """Return the waiting jobs by priority, then by submission, then by name."""
        names = np.array(self.waiting_ids, dtype=np.str_)
        found: list[int] = np.lexsort((names, self.submitted_at, -self.priority)).tolist()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holdings:
    """What running jobs hold: rows (job, node, kind, count, memory), and for each node its busy devices and memory."""

    ids: tuple[str, ...]
    ends: FloatColumn
    rows: IntColumn  # h, 5
    busy: tuple[Mapping[str, set[int]], ...]  # n: kind's name -> indices
    memory: IntColumn  # n

    @classmethod
    def of(cls, nodes: Sequence[Node], running: Sequence[RunningJob], kind_of: Mapping[str, int]) -> _Holdings:
        place = {(node.cluster, node.name): index for index, node in enumerate(nodes)}
        healthy = [{(device.accelerator, device.index) for device in node.devices if device.healthy} for node in nodes]
        busy: tuple[dict[str, set[int]], ...] = tuple({} for _ in nodes)
        memory = np.zeros(len(nodes), dtype=np.int64)
        rows: list[tuple[int, int, int, int, int]] = []
        for number, job in enumerate(running):
            counted: set[int] = set()
            for part in job.allocation.nodes:
                node = place.get((job.allocation.cluster, part.node))
                if node is None or part.accelerator not in kind_of:
                    continue
                held = job.node_memory_bytes if node not in counted else 0
                counted.add(node)
                memory[node] += held
                mine = busy[node].setdefault(part.accelerator, set())
                count = sum((part.accelerator, index) in healthy[node] for index in set(part.indices) - mine)
                mine.update(part.indices)
                rows.append((number, node, kind_of[part.accelerator], count, held))
        ends = [math.inf if job.expected_end is None else job.expected_end for job in running]
        return cls(
            ids=tuple(job.id for job in running),
            ends=np.array(ends, dtype=np.float64),
            rows=np.array(rows, dtype=np.int64).reshape(-1, 5),
            busy=busy,
            memory=memory,
        )

    def columns(self) -> dict[str, Any]:
        """Return the columns of the view that say what is held."""
        names = ("held_job", "held_node", "held_kind", "held_count", "held_memory")
        return {"running_ids": self.ids, "running_end": self.ends} | {
            name: self.rows[:, index] for index, name in enumerate(names)
        }


def _devices(
    nodes: Sequence[Node], kind_of: Mapping[str, int], busy: Sequence[Mapping[str, set[int]]]
) -> tuple[IntColumn, IntColumn, tuple[dict[int, tuple[int, ...]], ...]]:
    """Return how many devices of each kind are healthy, how many are free, and which."""
    healthy = np.zeros((len(nodes), len(kind_of)), dtype=np.int64)
    free = np.zeros_like(healthy)
    idle: list[dict[int, tuple[int, ...]]] = []
    for number, node in enumerate(nodes):
        found: dict[int, list[int]] = {}
        for device in node.devices:
            if device.healthy:
                kind = kind_of[device.accelerator]
                healthy[number, kind] += 1
                if device.index not in busy[number].get(device.accelerator, ()):
                    found.setdefault(kind, []).append(device.index)
        idle.append({kind: tuple(sorted(indices)) for kind, indices in found.items()})
        for kind, indices in found.items():
            free[number, kind] = len(indices)
    return healthy, free, tuple(idle)


def _waiting_columns(
    waiting: Sequence[WaitingJob], kind_of: Mapping[str, int], clusters: Iterable[str]
) -> dict[str, Any]:
    """Return the columns of the view that say what waits."""
    known, shapes, pools = set(clusters), dict[tuple[Any, ...], int](), dict[tuple[str, int], int]()
    made: list[Shape] = []
    plan_shape: list[int] = []
    plan_seconds: list[float] = []
    starts = [0]
    for job in waiting:
        for plan in job.plans:
            at = plan.placement
            num_nodes = at.num_nodes + job.spare_nodes
            key = (at.cluster, at.accelerator, num_nodes, at.devices_per_node, at.node_memory_bytes)
            if key not in shapes:
                kind = kind_of.get(at.accelerator, -1) if at.cluster in known else -1
                pool = pools.setdefault((at.cluster, kind), len(pools)) if kind >= 0 else -1
                shapes[key] = len(made)
                made.append(_shape(at, num_nodes, kind, pool))
            plan_shape.append(shapes[key])
            plan_seconds.append(math.inf if plan.estimate is None else plan.estimate.total_time_s)
        starts.append(len(plan_shape))
    return {
        "waiting_ids": tuple(job.id for job in waiting),
        "priority": np.array([job.priority for job in waiting], dtype=np.int64),
        "submitted_at": np.array([job.submitted_at for job in waiting], dtype=np.float64),
        "not_before": np.array([job.not_before for job in waiting], dtype=np.float64),
        "plan_start": np.array(starts, dtype=np.int64),
        "plan_shape": np.array(plan_shape, dtype=np.int64),
        "plan_seconds": np.array(plan_seconds, dtype=np.float64),
        "shapes": tuple(made),
    }


def _shape(placement: Placement, num_nodes: int, kind: int, pool: int) -> Shape:
    return Shape(
        cluster=placement.cluster,
        accelerator=placement.accelerator,
        num_nodes=num_nodes,
        per_node=placement.devices_per_node,
        memory_bytes=placement.node_memory_bytes,
        kind=kind,
        pool=pool,
    )
