"""Bytes of a training job, component by component, array-at-a-time.

On accelerators the bytes are those of the fullest device, where pipeline stages differ; on processor cores those of one
worker.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.domain.hardware import Pool
from mofang.matching.candidates import Candidates
from mofang.matching.memory.behaviour import behaviour_of
from mofang.matching.memory.cores import core_parts
from mofang.matching.memory.devices import PARTS, device_parts
from mofang.matching.memory.host import host_bytes
from mofang.matching.work import Work

__all__ = ["PARTS", "allocated_bytes", "host_bytes", "memory_parts"]

Floats = NDArray[np.float64]


def memory_parts(
    work: Work, pool: Pool, candidates: Candidates, framework: Framework | None = None
) -> Mapping[str, Floats]:
    """Return bytes by part (``PARTS``); their sum is what the fullest device, or one worker on cores, must have.

    ``framework`` None is the project's own recipe. The state follows ZeRO (arXiv:1910.02054), activations and pipeline
    stages Korthikanti et al. (arXiv:2205.05198).
    """
    if not len(candidates):
        return {name: np.zeros(0) for name in PARTS}
    if pool.is_cpu:
        return core_parts(work, pool, candidates)
    return device_parts(work, candidates, behaviour_of(framework))


def allocated_bytes(parts: Mapping[str, Floats]) -> Floats:
    """Return what an allocator would report as allocated at its peak: without the context and its own reserve."""
    total: Floats = sum(
        (size for name, size in parts.items() if name not in {"framework", "fragmentation"}),
        np.zeros_like(parts["weights"]),
    )
    return total
