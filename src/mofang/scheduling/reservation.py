"""When the first job that cannot start will fit, and what must then be free for it.

EASY backfill (Lifka, "The ANL/IBM SP scheduling system", JSSPP 1995): later jobs may pass it if they end before that
time, or use only what it will leave over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mofang.scheduling.space import Space, eligible, pick
from mofang.scheduling.view import IntColumn, Shape, View

__all__ = ["Outlook", "Release", "Reservation", "reserve", "waiting_room"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Devices and memory of one node that become free at a known time."""

    time: float
    node: int
    kind: int
    count: int
    memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """From ``time`` on, the shape fits on these nodes. The spare columns say what it leaves over on each of them."""

    shape: Shape
    time: float
    nodes: tuple[int, ...]
    spare_devices: IntColumn
    spare_memory: IntColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is free now, and what becomes free when.

    ``promised_memory`` is bytes on each node that other reservations count on; ``releases`` are in order of time.
    """

    view: View
    space: Space
    promised_memory: IntColumn
    releases: Sequence[Release]
    now: float


def reserve(outlook: Outlook, shapes: Iterable[Shape]) -> Reservation | None:
    """Return the earliest reservation for one of these shapes, the first of two alike; None: nobody knows a time."""
    best: Reservation | None = None
    for shape in dict.fromkeys(shapes):
        limit = math.inf if best is None else best.time
        found = _earliest(outlook, shape, limit)
        if found is not None and found.time < limit:
            best = found
    return best


def _earliest(outlook: Outlook, shape: Shape, limit: float) -> Reservation | None:
    view, space, now = outlook.view, outlook.space, outlook.now
    able = eligible(view, shape)
    free, memory = space.free[:, shape.kind].copy(), space.memory - outlook.promised_memory
    ready = able & (free >= shape.per_node) & (memory >= shape.memory_bytes)
    missing = shape.num_nodes - int(ready.sum())
    time = now
    for release in outlook.releases:
        if release.time > time and (missing <= 0 or release.time >= limit):
            break
        time = max(now, release.time)
        node = release.node
        memory[node] += release.memory
        free[node] += release.count if release.kind == shape.kind else 0
        if able[node] and not ready[node] and free[node] >= shape.per_node and memory[node] >= shape.memory_bytes:
            ready[node] = True
            missing -= 1
    nodes = pick(view, shape, ready, free)
    if nodes is None:
        return None
    return Reservation(
        shape=shape,
        time=time,
        nodes=tuple(nodes),
        spare_devices=free[nodes] - shape.per_node,
        spare_memory=memory[nodes] - shape.memory_bytes,
    )


def waiting_room(view: View, shapes: Iterable[Shape], space: Space) -> tuple[Shape, list[int]] | None:
    """Return the shape and the nodes that lack the fewest devices for it: where a job waits whose time nobody knows.

    What is free there is kept free. So the number that is missing only falls, and the job starts once enough jobs end.
    """
    best: tuple[int, Shape, list[int]] | None = None
    for shape in dict.fromkeys(shapes):
        nodes = np.flatnonzero(eligible(view, shape))
        if len(nodes) < shape.num_nodes:
            continue
        lack = np.maximum(shape.per_node - space.free[nodes, shape.kind], 0)
        lack += space.memory[nodes] < shape.memory_bytes
        order = np.argsort(lack, kind="stable")[: shape.num_nodes]
        total = int(lack[order].sum())
        if best is None or total < best[0]:
            best = (total, shape, np.sort(nodes[order]).tolist())
    return None if best is None else best[1:]
