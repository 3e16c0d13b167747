"""Why a job waits, from what a decision left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mofang.domain.reasons import Reason, precedence
from mofang.scheduling.decision import Wait
from mofang.scheduling.space import Space, eligible
from mofang.scheduling.view import Shape, View
from mofang.units import show_bytes, show_duration

__all__ = ["Explainer", "Head", "Status"]

_MOST_BLOCKERS = 5
# what is nearest to a start is what a job with several plans is told
_HOPE = (Reason.RESERVED, Reason.WAITING_FOR_DEVICES, Reason.NODE_DOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A job that does not start; ``backoff``: it was not looked at, because its time has not come."""

    job: int
    backoff: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The first job that waits for devices of these pools; ``time`` None: nobody knows when it will fit."""

    job: int
    pools: frozenset[int]
    time: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    reason: Reason
    message: str
    blockers: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[int, int]:
        """Smallest first: the cause that is shown."""
        if self.reason in _HOPE:
            return (0, _HOPE.index(self.reason))
        return (1, precedence(self.reason))


class Explainer:
    """Turns statuses into waits. Shapes alike have one cause, so ten thousand jobs cost little more than one."""

    def __init__(self, view: View, now: float, actual: Space, heads: list[Head]) -> None:
        self._view = view
        self._now = now
        self._actual = actual
        self._heads = {head.job: head for head in heads}
        self._head_of_pool = {pool: head for head in heads for pool in head.pools}
        self._causes: dict[Shape, _Cause] = {}
        self._chosen: dict[tuple[int, ...], _Cause] = {}
        self._shapes = view.plan_shape.tolist()
        self._bounds = view.plan_start.tolist()

    def wait(self, status: Status, position: int) -> Wait:
        """Return why the job waits."""
        job = status.job
        if status.backoff:
            until = float(self._view.not_before[job])
            cause = _Cause(reason=Reason.BACKOFF, message=f"its next attempt is in {show_duration(until - self._now)}")
            return self._made(job, cause, position, until)
        head = self._heads.get(job)
        return self._made(job, self._cause(job), position, None if head is None else head.time)

    def _made(self, job: int, cause: _Cause, position: int, expected: float | None) -> Wait:
        return Wait(
            job_id=self._view.waiting_ids[job],
            reason=cause.reason,
            message=cause.message,
            position=position,
            blockers=cause.blockers,
            expected_start=expected,
        )

    def _cause(self, job: int) -> _Cause:
        shapes = tuple(self._shapes[self._bounds[job] : self._bounds[job + 1]])
        if shapes not in self._chosen:
            causes = [self._of_shape(self._view.shapes[index]) for index in shapes]
            none = _Cause(reason=Reason.NO_SUCH_DEVICE, message="it has no plan")
            self._chosen[shapes] = min(causes, key=lambda cause: cause.rank, default=none)
        return self._chosen[shapes]

    def _of_shape(self, shape: Shape) -> _Cause:
        if shape not in self._causes:
            self._causes[shape] = self._impossible(shape) or self._busy(shape)
        return self._causes[shape]

    def _impossible(self, shape: Shape) -> _Cause | None:
        """Return why the shape would not fit even if nothing ran."""
        view, need, where = self._view, _need(shape), _where(shape)
        present = view.healthy[:, shape.kind] * view.in_cluster[shape.cluster] if shape.kind >= 0 else np.zeros(1)
        if not present.any():
            return _Cause(reason=Reason.NO_SUCH_DEVICE, message=f"needs {need}, and {where} has none")
        big = present >= shape.per_node
        if big.sum() < shape.num_nodes:
            have = f"{int(present.sum())}, at most {int(present.max())} on a node"
            return _Cause(reason=Reason.TOO_FEW_DEVICES, message=f"needs {need}, and {where} has {have}")
        roomy = big & (view.memory >= shape.memory_bytes)
        if roomy.sum() < shape.num_nodes:
            have = f"{where} has at most {show_bytes(int(view.memory[big].max()))} on such a node"
            message = f"needs {show_bytes(shape.memory_bytes)} of host memory on each node, and {have}"
            return _Cause(reason=Reason.MEMORY, message=message)
        if eligible(view, shape).sum() < shape.num_nodes:
            down = int((roomy & ~view.up).sum())
            return _Cause(
                reason=Reason.NODE_DOWN, message=f"needs {need}, and {down} of the fitting nodes are down or drained"
            )
        return None

    def _busy(self, shape: Shape) -> _Cause:
        view = self._view
        able = eligible(view, shape)
        free = int(self._actual.free[able, shape.kind].sum())
        exist = int(view.healthy[able, shape.kind].sum())
        figures = f"needs {_need(shape)}: {free} of {exist} are free in {_where(shape)}"
        head = self._head_of_pool.get(shape.pool)
        if head is not None and self._actual.nodes_for(shape) is not None:
            name = view.waiting_ids[head.job]
            return _Cause(reason=Reason.RESERVED, message=f"{figures}, kept for the older job {name}", blockers=(name,))
        short = "" if free < shape.per_node * shape.num_nodes else ", on too many nodes or with too little host memory"
        return _Cause(
            reason=Reason.WAITING_FOR_DEVICES,
            message=f"{figures}{short}",
            blockers=self._holding(shape.kind, shape.cluster),
        )

    def _holding(self, kind: int, cluster: str) -> tuple[str, ...]:
        """Return the running jobs that hold such devices, those that end first first."""
        view = self._view
        rows = (view.held_kind == kind) & view.in_cluster[cluster][view.held_node]
        jobs = np.unique(view.held_job[rows])
        order = np.argsort(view.running_end[jobs], kind="stable")[:_MOST_BLOCKERS]
        return tuple(view.running_ids[index] for index in jobs[order].tolist())


def _need(shape: Shape) -> str:
    nodes = "1 node" if shape.num_nodes == 1 else f"{shape.num_nodes} nodes"
    return f"{shape.per_node * shape.num_nodes} x {shape.accelerator} on {nodes}"


def _where(shape: Shape) -> str:
    return f"cluster {shape.cluster}" if shape.cluster else "hardware that is only described"
