"""Host memory that a training job needs on each node."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.domain.strategy import Offload
from mofang.matching.candidates import OFFLOADS, Candidates
from mofang.matching.coefficients import coefficients
from mofang.matching.work import Work

__all__ = ["host_bytes"]

Floats = NDArray[np.float64]

_CHECKPOINTED = 12.0  # bytes a parameter: fp32 weights and two moments
_OFFLOADED = {Offload.NONE: 0.0, Offload.OPTIMIZER: 16.0, Offload.ALL: 18.0}  # those, fp32 gradients; 16-bit weights


def host_bytes(work: Work, pool: Pool, candidates: Candidates, device_bytes: Floats) -> Floats:
    """Return the host memory the job needs on each node.

    On cores that is what its workers need. On accelerators a checkpoint passes through host memory, each rank's share
    of it, and offloaded state lives there (ZeRO-Offload, arXiv:2101.06840, section 3: gradients, master weights and
    moments).
    """
    workers = candidates.workers / candidates.nodes
    if pool.is_cpu:
        return workers * device_bytes
    offload = candidates.offload
    if (offload == offload.ravel()[:1]).all():  # mostly: then it depends on the layout alone
        offload = offload.ravel()[:1]
    kept = np.array([_OFFLOADED[offload] for offload in OFFLOADS])[offload]
    staged = (_CHECKPOINTED + kept) * work.model.params / candidates.workers
    return np.broadcast_to(workers * (coefficients().framework_bytes["host"] + staged), candidates.shape)
