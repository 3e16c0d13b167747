"""Seconds of one micro-batch's operators on one rank, all layers, forward and backward, by part; many cuts at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.rates import Operator, Phase
from mofang.matching.speed import Speed
from mofang.matching.workload import Place, Use

__all__ = ["OPERATOR_PARTS", "Passes", "concatenated", "gathered", "passes", "stack"]

Floats = NDArray[np.float64]

OPERATOR_PARTS = ("compute", "attention", "memory")
_PART = {Operator.LINEAR: "compute", Operator.ATTENTION: "attention"}
# Of the backward pass where weights are frozen: the inputs' gradient without the weights'; nothing before the table.
_FROZEN = {Operator.LINEAR: 0.5, Operator.EMBEDDING: 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Seconds, one row a cut. ``forward`` and ``backward`` are of the blocks, ``head`` and ``table`` of both passes.

    ``outer_forward`` is the part of ``head`` and ``table`` that lies in the forward pass; ``outer`` splits both
    passes of head and table by part.
    """

    forward: Mapping[str, Floats]
    backward: Mapping[str, Floats]
    outer: Mapping[str, Floats]
    head: Floats
    table: Floats
    outer_forward: Floats


def passes(uses: Sequence[Use], block: Speed, outer: Speed, rows: int) -> Passes:
    """Return the seconds of ``uses`` at ``rows`` cuts: blocks at one speed, head and table at another.

    The two differ where products run in 8 or 4 bits: only those of the blocks do (arXiv:2209.05433, section 4).
    """
    there = _seconds(uses, Phase.FORWARD, block, outer)
    back = _seconds(uses, Phase.BACKWARD, block, outer)
    found = _Sums(rows)
    for use, forward, backward in zip(uses, there, back, strict=True):
        found.add(use, forward, backward)
    return found.passes()


class _Sums:
    """Sums while the list of operators is walked."""

    def __init__(self, rows: int) -> None:
        def parts() -> dict[str, Floats]:
            return {part: np.zeros(rows) for part in OPERATOR_PARTS}

        self.forward, self.backward, self.outer = parts(), parts(), parts()
        self.places = {Place.HEAD: np.zeros(rows), Place.TABLE: np.zeros(rows)}
        self.outer_forward = np.zeros(rows)

    def add(self, use: Use, forward: Floats, backward: Floats) -> None:
        part = _PART.get(use.operator, "memory")
        if use.place is Place.BLOCK:
            self.forward[part] += forward
            self.backward[part] += backward
            return
        both = forward + backward
        self.outer[part] += both
        self.places[use.place] += both
        self.outer_forward += forward

    def passes(self) -> Passes:
        return Passes(
            forward=self.forward,
            backward=self.backward,
            outer=self.outer,
            head=self.places[Place.HEAD],
            table=self.places[Place.TABLE],
            outer_forward=self.outer_forward,
        )


def _seconds(uses: Sequence[Use], phase: Phase, block: Speed, outer: Speed) -> list[Floats]:
    """Return the seconds of each use, ``times`` included; like operators are timed in one call."""
    found: list[Floats] = [np.zeros(0)] * len(uses)
    alike: dict[tuple[Operator, bool], list[int]] = {}
    for index, use in enumerate(uses):
        alike.setdefault((use.operator, use.place is Place.BLOCK), []).append(index)
    for (operator, inside), members in alike.items():
        shapes = np.concatenate([uses[index].shapes for index in members])
        seconds = (block if inside else outer).seconds(operator, phase, shapes)
        for index, part in zip(members, np.split(seconds, len(members)), strict=True):
            found[index] = part * _weight(uses[index], phase)
    return found


def _weight(use: Use, phase: Phase) -> Floats | float:
    times: Floats | float = use.times if use.groups is None else use.times * use.groups
    if not use.frozen or phase is not Phase.BACKWARD:
        return times
    return times * _FROZEN.get(use.operator, 1.0)


def concatenated(pieces: Sequence[Passes]) -> Passes:
    """Return the rows of all pieces, in their order."""

    def join(name: str) -> Floats:
        return np.concatenate([getattr(piece, name) for piece in pieces])

    def parts(name: str) -> Mapping[str, Floats]:
        return {part: np.concatenate([getattr(piece, name)[part] for piece in pieces]) for part in OPERATOR_PARTS}

    return Passes(
        forward=parts("forward"),
        backward=parts("backward"),
        outer=parts("outer"),
        head=join("head"),
        table=join("table"),
        outer_forward=join("outer_forward"),
    )


def gathered(found: Passes, place: NDArray[np.intp]) -> Passes:
    """Return the rows at these places."""

    def parts(of: Mapping[str, Floats]) -> Mapping[str, Floats]:
        return {part: seconds[place] for part, seconds in of.items()}

    return Passes(
        forward=parts(found.forward),
        backward=parts(found.backward),
        outer=parts(found.outer),
        head=found.head[place],
        table=found.table[place],
        outer_forward=found.outer_forward[place],
    )


def stack(parts: Mapping[str, Floats]) -> Floats:
    """Return the sum of all parts, added in their order: a row has the same sum in any company."""
    first, *others = parts.values()
    return sum(others, first)
