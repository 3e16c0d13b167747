"""How layers are dealt to pipeline stages, and what the pipeline's schedule costs.

1F1B with interleaving: of m micro-batches over p stages with v chunks each, (p - 1) / v chunks' worth of time is lost
filling and draining (arXiv:2104.04473, section 2.2), and every micro-batch waits for the slowest stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stages", "stages"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Tables by number of stages (row p is p stages): layers on the fullest, the last and the first of them.

    ``alone`` is 1 where the last stage is the first one too; ``sends`` is how often a micro-batch is handed on by a
    stage: forward and backward, or not at all. ``repeats`` is 1 where fully sharded weights are gathered and gradients
    reduced for every micro-batch: with a pipeline they stay gathered until the end of the step.
    """

    fullest: Floats
    last: Floats
    first: Floats
    alone: Floats
    sends: Floats
    repeats: Floats
    doublings: Floats


def stages(layers: int, most: int) -> Stages:
    """Return the tables for up to ``most`` stages.

    Layers that do not divide evenly are missing where the head is first, and where the table is.
    """
    count = np.maximum(np.arange(most + 1), 1)
    fullest = -(-layers // count)
    missing = fullest * count - layers
    last = np.maximum(fullest - (missing + 1) // 2, 0)
    first = np.maximum(fullest - missing // 2, 0)
    alone = count == 1
    return Stages(
        fullest=np.minimum(fullest, layers).astype(np.float64),
        last=last.astype(np.float64),
        first=first.astype(np.float64),
        alone=alone.astype(np.float64),
        sends=2.0 * ~alone,
        repeats=alone.astype(np.float64),
        doublings=np.log2(count),
    )
