"""Ways to run a training task on a pool, as columns: a structure of arrays, one row a candidate."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

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
]

Ints = NDArray[np.int64]

# What the codes in the columns stand for.
PRECISIONS = tuple(Precision)
SHARDINGS = tuple(Sharding)
RECOMPUTES = tuple(Recompute)
METHODS = tuple(Method)
OFFLOADS = tuple(Offload)


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
