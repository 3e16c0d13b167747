"""Which documents share a sequence. Pure; arrays in, arrays out.

A *stretch* is what one sequence can hold of a document: all of it where it fits. Text that is longer is cut into
several, a pair of prompt and response loses its end. A stretch of n positions computes n tokens and predicts the n that
lie one further. Several stretches in a sequence do not see each other and count their positions from 0 each, so
that a document is learned as if it were alone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Rows", "Stretches", "cut", "one_each", "pack", "split"]

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretches:
    """Columns: where in the token file each begins, its positions, how many of them come before the first target."""

    start: Indices
    positions: Indices
    unlearned: Indices

    def __len__(self) -> int:
        return len(self.start)

    @property
    def targets(self) -> Indices:
        """Tokens of each that are learned."""
        return self.positions - self.unlearned

    def where(self, rows: Indices | slice) -> Stretches:
        """Return some of them."""
        return Stretches(start=self.start[rows], positions=self.positions[rows], unlearned=self.unlearned[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Sequences: row r holds the stretches ``members[begins[r] : begins[r + 1]]``."""

    begins: Indices
    members: Indices

    def __len__(self) -> int:
        return len(self.begins) - 1

    def of(self, row: int) -> Indices:
        """Return the stretches of one row."""
        return self.members[self.begins[row] : self.begins[row + 1]]


def cut(starts: Indices, prompts: Indices, order: Indices, *, sequence: int) -> tuple[Stretches, int]:
    """Return the stretches of documents and how many pairs have no response within ``sequence``.

    Args:
        starts: where each document begins, and the end of the last.
        prompts: tokens of each that are not learned.
        order: which document comes first.
        sequence: positions of one sequence.
    """
    whole, begins, prompts = np.diff(starts)[order] - 1, starts[:-1][order], prompts[order]
    pairs = prompts > 0
    pieces = np.where(pairs, 1, np.maximum(1, -(-whole // sequence)))
    owner = np.repeat(np.arange(len(whole)), pieces)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    positions = np.clip(whole[owner] - place * sequence, 0, sequence)
    unlearned = np.maximum(prompts[owner] - 1, 0)
    kept = positions > unlearned
    found = Stretches(start=begins[owner] + place * sequence, positions=positions, unlearned=unlearned)
    return found.where(np.flatnonzero(kept)), int((~kept & pairs[owner]).sum())


def split(stretches: Stretches, fraction: float) -> tuple[Stretches, Stretches]:
    """Return those to train on and the last ones, about this part of all positions, kept for validation.

    Each of the two has one at least, where ``fraction`` is above 0 and there are two.
    """
    if fraction <= 0.0 or len(stretches) < 2:
        return stretches, stretches.where(slice(0, 0))
    after = np.cumsum(stretches.positions[::-1])[::-1]  # positions from each to the end
    kept = int((after <= fraction * after[0]).sum())
    first = len(stretches) - min(max(kept, 1), len(stretches) - 1)
    return stretches.where(slice(0, first)), stretches.where(slice(first, None))


def one_each(stretches: Stretches) -> Rows:
    """Return one row a stretch."""
    count = len(stretches)
    return Rows(begins=np.arange(count + 1, dtype=np.int64), members=np.arange(count, dtype=np.int64))


def pack(stretches: Stretches, *, sequence: int) -> Rows:
    """Return rows of ``sequence`` positions at most: the longest stretch first, each where the least room is left.

    Best-fit decreasing uses at most 11/9 of the fewest possible rows, and one (Johnson 1974).
    """
    order = np.argsort(-stretches.positions, kind="stable")
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # those of by_room, sorted
    for index in order:
        need = int(stretches.positions[index])
        at = bisect_left(rooms, need)
        if at == len(rooms):
            rows.append([])
            row, room = len(rows) - 1, sequence
        else:
            room = rooms[at]
            row = by_room[room].pop()
            if not by_room[room]:
                rooms.pop(at)
        rows[row].append(int(index))
        left = room - need
        if left > 0:
            waiting = by_room.setdefault(left, [])
            if not waiting:
                insort(rooms, left)
            waiting.append(row)
    sizes = np.array([len(row) for row in rows], dtype=np.int64)
    members = np.array([index for row in rows for index in row], dtype=np.int64)
    return Rows(begins=np.concatenate(([0], np.cumsum(sizes))), members=members)
