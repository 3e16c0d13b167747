"""Bytes of a training job, component by component, array-at-a-time.

On accelerators the bytes are those of the fullest device, where pipeline stages differ; on processor cores those of one
worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.domain.hardware import Pool
from mofang.matching.candidates import Candidates
from mofang.matching.memory.behaviour import behaviour_of
from mofang.matching.memory.cores import CoreMemory
from mofang.matching.memory.devices import PARTS, device_memory
from mofang.matching.memory.host import host_bytes
from mofang.matching.work import Work

__all__ = ["PARTS", "Memory", "allocated_bytes", "host_bytes", "memory_of", "memory_parts"]

Floats = NDArray[np.float64]


class Memory(Protocol):
    """What some candidates need."""

    def where(self, rows: NDArray[np.int64] | slice) -> Memory:
        """Return that of some of them (of a grid, of some layouts)."""

    def parts(self) -> Mapping[str, Floats]:
        """Return bytes by part (``PARTS``)."""

    def bytes(self) -> Floats:
        """Return the sum of the parts."""


def memory_of(work: Work, pool: Pool, candidates: Candidates, framework: Framework | None = None) -> Memory:
    """Return the memory of candidates on the fullest device, or in one worker on cores.

    ``framework`` None is the project's own recipe. The state follows ZeRO (arXiv:1910.02054), activations and pipeline
    stages Korthikanti et al. (arXiv:2205.05198).
    """
    if pool.is_cpu:
        return CoreMemory(work=work, pool=pool, candidates=candidates)
    return device_memory(work, candidates, behaviour_of(framework))


def memory_parts(
    work: Work, pool: Pool, candidates: Candidates, framework: Framework | None = None
) -> Mapping[str, Floats]:
    """Return bytes by part (``PARTS``) of each candidate (see ``memory_of``)."""
    return memory_of(work, pool, candidates, framework).parts()


def allocated_bytes(parts: Mapping[str, Floats]) -> Floats:
    """Return what an allocator would report as allocated at its peak: without the context and its own reserve."""
    total: Floats = sum(
        (size for name, size in parts.items() if name not in {"framework", "fragmentation"}),
        np.zeros_like(parts["weights"]),
    )
    return total
