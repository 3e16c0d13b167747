"""What the training loop is asked to do, free of the task it came from."""

from __future__ import annotations

from dataclasses import dataclass

from mofang.domain.scenario import Optimisation

__all__ = ["Schedule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One run. Intervals are steps; 0 switches checkpoints on the way or validation off.

    ``tokens`` and ``flops`` are those of one optimiser step of the whole job, ``flops`` as the plan's MFU counts them;
    ``peak_flops`` is what MFU is measured against; 0: unknown.
    """

    steps: int
    global_batch: int
    accumulation: int
    tokens: int
    params: int
    optimisation: Optimisation = Optimisation()
    flops: float = 0.0
    peak_flops: float = 0.0
    seed: int = 0
    log_every: int = 1
    validate_every: int = 0
    save_every: int = 0
    fault_step: int | None = None  # after so many steps the last worker kills itself, once
