"""What the training loop is asked to do, free of the task it came from."""

from __future__ import annotations

from dataclasses import dataclass

from mofang.domain.recipe import TrainingConfig
from mofang.domain.scenario import Optimisation
from mofang.recipes.training.share import Share

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

    @classmethod
    def of(
        cls,
        config: TrainingConfig,
        share: Share,
        *,
        tokens: int,
        params: int,
        flops: float,
        fault_step: int | None = None,
    ) -> Schedule:
        """Return what a configuration asks for, of as many workers as there are: each brings its part of the peak."""
        task = config.task
        return cls(
            steps=config.steps,
            global_batch=task.global_batch,
            accumulation=share.passes,
            tokens=tokens,
            params=params,
            optimisation=task.optimisation,
            flops=flops,
            peak_flops=config.peak_flops * share.world_size / config.strategy.parallelism.world_size,
            seed=task.seed,
            log_every=task.log_every,
            validate_every=task.validate_every,
            save_every=config.save_every,
            fault_step=fault_step,
        )
