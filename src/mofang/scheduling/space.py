"""Free devices and host memory within one decision, and where a plan fits best in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mofang.domain.hardware import CPU
from mofang.scheduling.view import BoolColumn, IntColumn, Shape, View

__all__ = ["Space", "eligible", "pick"]


class Space:
    """What is free on each node (devices: n, k; memory: n, bytes). Within one decision it only ever shrinks.

    So a shape that once did not fit never fits again in it, and is not looked at twice.
    """

    def __init__(self, view: View, free: IntColumn, memory: IntColumn) -> None:
        self._view = view
        self.free = free.copy()
        self.memory = memory.copy()
        self._full: set[Shape] = set()

    def nodes_for(self, shape: Shape) -> list[int] | None:
        """Return the nodes on which the shape fits best, or None where it does not fit."""
        if shape in self._full:
            return None
        found = None
        if shape.kind >= 0:
            fits = (self.free[:, shape.kind] >= shape.per_node) & (self.memory >= shape.memory_bytes)
            fits &= self._view.up & self._view.in_cluster[shape.cluster]
            found = pick(self._view, shape, fits, self.free[:, shape.kind])
        if found is None:
            self._full.add(shape)
        return found

    def take(self, shape: Shape, nodes: Sequence[int]) -> None:
        """Remove what the shape holds on these nodes."""
        self.free[nodes, shape.kind] -= shape.per_node
        self.memory[nodes] -= shape.memory_bytes

    def shrink_to(self, other: Space, shape: Shape, nodes: Sequence[int]) -> None:
        """Leave no more on these nodes than the other space has."""
        self.free[nodes, shape.kind] = np.minimum(self.free[nodes, shape.kind], other.free[nodes, shape.kind])
        self.memory[nodes] = np.minimum(self.memory[nodes], other.memory[nodes])


def eligible(view: View, shape: Shape) -> BoolColumn:
    """Return the nodes on which the shape would fit if nothing ran there."""
    if shape.kind < 0:
        return np.zeros(len(view.nodes), dtype=np.bool_)
    fits: BoolColumn = (view.healthy[:, shape.kind] >= shape.per_node) & (view.memory >= shape.memory_bytes)
    return fits & view.up & view.in_cluster[shape.cluster]


def pick(view: View, shape: Shape, fits: BoolColumn, free: IntColumn) -> list[int] | None:
    """Return the best of the fitting nodes: with the fewest chips of other kinds, then the fullest, then by name."""
    nodes = np.flatnonzero(fits)
    if len(nodes) < shape.num_nodes:
        return None
    others = view.chips[nodes] - (view.healthy[nodes, shape.kind] if shape.accelerator != CPU else 0)
    order = np.lexsort((free[nodes], others))[: shape.num_nodes]
    found: list[int] = np.sort(nodes[order]).tolist()
    return found
