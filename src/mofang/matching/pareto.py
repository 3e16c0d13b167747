"""The Pareto front: candidates that no other beats in one goal without losing in another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Front", "undominated"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Front:
    """Points (one row each, everything to be minimised; infinite where unknown) that no other point dominates.

    A point dominates another that is nowhere smaller. Of equal points the one with the smallest key stays, so that the
    front does not depend on the order in which points come.
    """

    def __init__(self, goals: int) -> None:
        self.points: Floats = np.zeros((0, goals))
        self.keys: Floats = np.zeros((0, 2))

    def may_join(self, points: Floats) -> Mask:
        """Return which points no point of the front strictly dominates (equal ones may join)."""
        rows, columns = np.arange(len(points)), list(points.T)
        for place in range(len(self.points)):
            beaten = _beaten(self.points[place], columns)
            if beaten.any():
                keep = np.flatnonzero(~beaten)
                rows, columns = rows[keep], [column[keep] for column in columns]
                self._promote(place)
            if not len(rows):
                break
        mask = np.zeros(len(points), dtype=np.bool_)
        mask[rows] = True
        return mask

    def _promote(self, place: int) -> None:
        """Ask a point that beats others earlier next time."""
        if place:
            order = np.arange(len(self.points))
            order[[0, place]] = order[[place, 0]]
            self.points, self.keys = self.points[order], self.keys[order]

    def add(self, points: Floats, keys: Floats) -> None:
        """Take new points with their keys (two numbers each)."""
        points, keys = np.concatenate([self.points, points]), np.concatenate([self.keys, keys])
        keep = undominated(points, keys)
        self.points, self.keys = points[keep], keys[keep]

    def ordered(self) -> tuple[Floats, Floats]:
        """Return points and keys, by the first goal."""
        order = np.lexsort((*self.keys.T[::-1], *self.points.T[::-1]))
        return self.points[order], self.keys[order]


def _beaten(best: Floats, columns: list[Floats]) -> Mask:
    """Return which points (a column a goal) are nowhere smaller than one point, and not equal to it."""
    beaten: Mask = columns[0] >= best[0]
    for value, column in zip(best[1:], columns[1:], strict=True):
        beaten &= column >= value
    equal = np.flatnonzero(beaten & (columns[0] == best[0]))
    for value, column in zip(best[1:], columns[1:], strict=True):
        equal = equal[column[equal] == value]
    beaten[equal] = False
    return beaten


def undominated(points: Floats, keys: Floats) -> NDArray[np.intp]:
    """Return the places of the points that no other dominates; of equal ones, that of the smallest key."""
    left = np.lexsort((*keys.T[::-1], *points.T[::-1]))  # a point can only be dominated by one before it
    kept: list[int] = []
    while len(left):
        kept.append(int(left[0]))
        beaten = np.ones(len(left), dtype=np.bool_)
        for goal in range(points.shape[1]):
            beaten &= points[left, goal] >= points[left[0], goal]
        left = left[~beaten]
    return np.array(kept, dtype=np.intp)
