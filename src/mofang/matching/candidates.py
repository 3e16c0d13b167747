"""Ways to run a training task on a pool, as columns: a structure of arrays, one row a candidate.

The columns are of one length; or they are those of an open grid, in which every layout is run in every way: columns of
the layout have shape 1 x L, those of the way W x 1, and what is computed of them has W x L rows. So what depends on one
of the two alone is computed L or W times, by the same code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Precision
from mofang.domain.strategy import Method, Offload, Recompute, Sharding

__all__ = [
    "METHODS",
    "OFFLOADS",
    "PRECISIONS",
    "RECOMPUTES",
    "SHARDINGS",
    "Candidates",
    "Layouts",
]

Ints = NDArray[np.int64]

# What the codes in the columns stand for.
PRECISIONS = tuple(Precision)
SHARDINGS = tuple(Sharding)
RECOMPUTES = tuple(Recompute)
METHODS = tuple(Method)
OFFLOADS = tuple(Offload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """One row a layout: devices, ranks, and how a global batch is cut."""

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

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is computed of the rows."""
        return self.nodes.shape

    def __len__(self) -> int:
        return math.prod(self.shape)

    def where(self, rows: NDArray[np.bool_] | Ints | slice) -> Self:
        """Return the rows that a mask, indices or a slice keep; of a grid, the layouts."""
        size = self.shape[-1]
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self, **{name: column[..., rows] for name, column in columns.items() if column.shape[-1] == size}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates(Layouts):
    """One row a candidate. Codes index ``PRECISIONS``, ``SHARDINGS``, ``RECOMPUTES``, ``METHODS`` and ``OFFLOADS``."""

    accumulation: Ints
    precision: Ints
    recompute: Ints
    sharding: Ints
    compile: Ints
    method: Ints
    offload: Ints

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is computed of the rows: of their number, or ways x layouts."""
        return np.broadcast_shapes(self.nodes.shape, self.precision.shape)

    @property
    def workers(self) -> Ints:
        """Ranks of the job."""
        return self.devices // self.threads
