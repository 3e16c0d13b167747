"""Which waiting jobs start now.

Jobs are looked at by priority, then by submission; each starts with its best plan that fits. The first one that cannot
start gets a reservation, and later ones pass it only where that does not delay it. Jobs that compete for other devices
have a first one of their own. Where nobody knows when running jobs end, later jobs may pass for ``PATIENCE_S``; then
whatever becomes free is kept for the job that has waited so long. So nobody waits for ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from mofang.domain.job import Allocation, NodeDevices
from mofang.scheduling.decision import Decision, Start
from mofang.scheduling.reasons import Explainer, Head, Status
from mofang.scheduling.reservation import Outlook, Release, Reservation, reserve, waiting_room
from mofang.scheduling.space import Space, eligible
from mofang.scheduling.view import IntColumn, Shape, View

__all__ = ["PATIENCE_S", "decide"]

PATIENCE_S = 600.0  # so long may later jobs pass one whose time nobody knows


def decide(view: View, now: float) -> Decision:
    """Return which jobs start on which devices, and why each of the others waits.

    The same view and time always give the same decision.

    Args:
        view: the world.
        now: seconds since the epoch.
    """
    turn = _Turn(view=view, now=now)
    for job in view.order():
        if view.not_before[job] > now:
            turn.statuses.append(Status(job=job, backoff=True))
        elif not turn.start(job):
            turn.statuses.append(Status(job=job))
            turn.protect(job)
    explainer = Explainer(view, now, turn.actual, turn.heads)
    waits = tuple(explainer.wait(status, position) for position, status in enumerate(turn.statuses, start=1))
    return Decision(starts=tuple(turn.starts), waits=waits)


@dataclass(slots=True, kw_only=True)
class _Turn:
    """One decision in the making.

    ``actual`` is what is free; ``short`` what a job may use that ends before ``horizon``, the earliest reservation;
    ``long`` what every other job may use.
    """

    view: View
    now: float
    actual: Space = field(init=False)
    short: Space = field(init=False)
    long: Space = field(init=False)
    horizon: float = math.inf
    starts: list[Start] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    headed: set[int] = field(default_factory=set)  # pools whose first waiting job is protected
    possible: dict[Shape, bool] = field(default_factory=dict)
    releases: list[Release] = field(init=False)
    promised: IntColumn = field(init=False)
    idle: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    plans: list[list[tuple[Shape, float]]] = field(init=False)

    def __post_init__(self) -> None:
        view = self.view
        self.actual, self.short, self.long = (Space(view, view.free, view.free_memory) for _ in range(3))
        self.releases = _releases(view, self.now)
        self.promised = np.zeros(len(view.nodes), dtype=np.int64)
        shapes = [view.shapes[index] for index in view.plan_shape.tolist()]
        pairs = list(zip(shapes, view.plan_seconds.tolist(), strict=True))
        bounds = view.plan_start.tolist()
        self.plans = [pairs[low:high] for low, high in pairwise(bounds)]

    def start(self, job: int) -> bool:
        """Start the job with its best plan that fits; return whether there was one."""
        for index, (shape, seconds) in enumerate(self.plans[job]):
            in_time = self.now + seconds <= self.horizon
            nodes = (self.short if in_time else self.long).nodes_for(shape)
            if nodes is not None:
                self._take(shape, nodes, seconds)
                self.starts.append(
                    Start(
                        job_id=self.view.waiting_ids[job], plan_index=index, allocation=self._allocation(shape, nodes)
                    )
                )
                return True
        return False

    def _take(self, shape: Shape, nodes: list[int], seconds: float) -> None:
        end = self.now + seconds
        self.actual.take(shape, nodes)
        self.short.take(shape, nodes)
        if end <= self.horizon:  # gone before the reserved time: only what is free now becomes less
            self.long.shrink_to(self.short, shape, nodes)
        else:
            self.long.take(shape, nodes)
        if end < math.inf:
            self.releases.extend(
                Release(time=end, node=node, kind=shape.kind, count=shape.per_node, memory=shape.memory_bytes)
                for node in nodes
            )

    def _allocation(self, shape: Shape, nodes: list[int]) -> Allocation:
        parts = []
        for node in nodes:
            free = self.idle.get((node, shape.kind), self.view.idle[node].get(shape.kind, ()))
            taken, self.idle[node, shape.kind] = free[: shape.per_node], free[shape.per_node :]
            parts.append(NodeDevices(node=self.view.nodes[node], accelerator=shape.accelerator, indices=taken))
        return Allocation(cluster=shape.cluster, nodes=tuple(parts))

    def protect(self, job: int) -> None:
        """Reserve for the job if it is the first that waits for its kinds of devices, and could run on them at all."""
        pools = {shape.pool for shape, _ in self.plans[job]} - {-1}
        if not pools or not self.headed.isdisjoint(pools):
            return
        shapes = [shape for shape, _ in self.plans[job] if self._possible(shape)]
        if not shapes:
            return
        self.releases.sort(key=lambda release: release.time)
        outlook = Outlook(
            view=self.view, space=self.actual, promised_memory=self.promised, releases=self.releases, now=self.now
        )
        found = reserve(outlook, shapes)
        if found is not None:
            self._keep(found)
        elif self.now - self.view.submitted_at[job] >= PATIENCE_S:
            self._hold(shapes)
        self.headed |= pools
        self.heads.append(Head(job=job, pools=frozenset(pools), time=None if found is None else found.time))

    def _possible(self, shape: Shape) -> bool:
        """Return whether the shape would fit if nothing ran."""
        if shape not in self.possible:
            self.possible[shape] = bool(eligible(self.view, shape).sum() >= shape.num_nodes)
        return self.possible[shape]

    def _keep(self, found: Reservation) -> None:
        """Leave to jobs that run on at the reserved time only what the reservation leaves over."""
        nodes, kind = list(found.nodes), found.shape.kind
        self.horizon = min(self.horizon, found.time)
        self.promised[nodes] += found.shape.memory_bytes
        self.long.free[nodes, kind] = np.minimum(self.long.free[nodes, kind], found.spare_devices)
        self.long.memory[nodes] = np.minimum(self.long.memory[nodes], found.spare_memory)

    def _hold(self, shapes: list[Shape]) -> None:
        """Keep what is free where the job will most likely fit, from all later jobs."""
        found = waiting_room(self.view, shapes, self.actual)
        if found is None:
            return
        shape, nodes = found
        self.promised[nodes] += shape.memory_bytes
        for space in (self.short, self.long):
            space.free[nodes, shape.kind] = np.maximum(space.free[nodes, shape.kind] - shape.per_node, 0)
            space.memory[nodes] = np.maximum(space.memory[nodes] - shape.memory_bytes, 0)


def _releases(view: View, now: float) -> list[Release]:
    """Return what running jobs free at known times; one that is late is expected to end now."""
    ends = np.maximum(view.running_end[view.held_job], now)
    columns = (ends, view.held_node, view.held_kind, view.held_count, view.held_memory)
    return [
        Release(time=end, node=node, kind=kind, count=count, memory=memory)
        for end, node, kind, count, memory in zip(*(column.tolist() for column in columns), strict=True)
        if end < math.inf
    ]
