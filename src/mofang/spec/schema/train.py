"""How to train: what pre-training, fine-tuning and classification share, and what each adds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mofang.domain.hardware import Precision
from mofang.domain.scenario import OnTrouble
from mofang.domain.strategy import Offload, Recompute, Sharding
from mofang.spec.quantities import CheckpointEvery, FrameworkName, PositiveCount, PositiveDuration, WholeCount
from mofang.spec.schema.section import Section

__all__ = ["ClassifyTrain", "FinetuneTrain", "PretrainTrain", "StrategyKeys", "TrainKeys"]


class TrainKeys(Section):
    """How long and how to train."""

    steps: PositiveCount | None = Field(default=None, description="optimiser steps")
    duration: PositiveDuration | None = Field(
        default=None, description="time to train for, turned into steps by the plan"
    )
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1, description="the rate at the end, as a part of lr")
    warmup: WholeCount = Field(default=20, description="steps of linear warm-up")
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW's decoupled weight decay")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's first decay rate")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="AdamW's second decay rate")
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    checkpoint_every: CheckpointEvery = Field(default=15.0, description="steps (50) or a duration (15s)")
    keep_checkpoints: PositiveCount = Field(default=3, description="how many of the newest are kept")
    validate_every: PositiveCount = Field(default=50, description="steps between validations")
    validation_batches: PositiveCount = Field(default=8, description="batches in one validation")
    log_every: PositiveCount = Field(default=1, description="steps between reports of the loss")
    on_nan: Annotated[OnTrouble, Field(strict=False)] = Field(
        default=OnTrouble.ROLL_BACK, description="when the loss is not a number: roll-back (leaving out data) or stop"
    )
    on_spike: Annotated[OnTrouble, Field(strict=False)] = Field(
        default=OnTrouble.REPORT, description="when the loss leaps: report, roll-back (leaving out data) or stop"
    )
    roll_backs: WholeCount = Field(default=2, description="how often training goes back at most")
    seed: WholeCount = Field(default=0, description="of weights and data order")


class PretrainTrain(TrainKeys):
    """How long and how to train. One of steps, duration and tokens says how long."""

    sequence: PositiveCount | None = Field(
        default=None, description="tokens in one sequence; default: the model's, at most 1024"
    )
    global_batch: PositiveCount = Field(default=16, description="sequences in one optimiser step, over all workers")
    tokens: PositiveCount | None = Field(default=None, description="tokens to train on, rounded up to whole steps")
    lr: float = Field(default=3e-4, gt=0, description="AdamW's learning rate after warm-up")
    sample_tokens: WholeCount = Field(default=400, description="length of the text generated at the end; 0: none")
    fault_at: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="kill one worker when this part of the steps is done, to watch the recovery",
    )


class FinetuneTrain(TrainKeys):
    """How long and how to train further. One of steps, epochs and duration says how long."""

    sequence: PositiveCount | None = Field(
        default=None, description="tokens in one sequence; default: the model's, at most 1024"
    )
    global_batch: PositiveCount = Field(default=16, description="sequences in one optimiser step, over all workers")
    epochs: float | None = Field(default=None, gt=0, description="passes over the documents, turned into whole steps")
    packing: bool = Field(
        default=True,
        description="whether documents share a sequence, in which none sees another; false: each has one of its own, "
        "padded to the longest of its batch",
    )
    lr: float | None = Field(
        default=None,
        gt=0,
        description="AdamW's learning rate after warm-up; default: 2e-4 for adapters, 2e-5 for all weights. With "
        "method any it is the one of adapters, and a tenth of it is used where all weights are trained",
    )
    warmup: WholeCount = Field(default=10, description="steps of linear warm-up")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's decoupled weight decay")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's second decay rate")
    sample_tokens: WholeCount = Field(default=0, description="length of the text generated at the end; 0: none")


class ClassifyTrain(TrainKeys):
    """How long and how to train. One of steps, epochs and duration says how long."""

    global_batch: PositiveCount = Field(default=128, description="images in one optimiser step, over all workers")
    epochs: float | None = Field(default=None, gt=0, description="passes over the images, turned into whole steps")
    lr: float = Field(default=1e-3, gt=0, description="AdamW's learning rate after warm-up")
    weight_decay: float = Field(default=0.05, ge=0, description="AdamW's decoupled weight decay")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's second decay rate")


class StrategyKeys(Section):
    """What you fix yourself; whatever is left out, matching chooses."""

    workers: PositiveCount | None = Field(default=None, description="processes: dp x tp x pp x cp")
    threads: PositiveCount | None = Field(default=None, description="cores of one worker (cpu only)")
    dp: PositiveCount | None = Field(default=None, description="data parallel size")
    tp: PositiveCount | None = Field(default=None, description="tensor parallel size")
    pp: PositiveCount | None = Field(default=None, description="pipeline parallel size")
    cp: PositiveCount | None = Field(default=None, description="context parallel size")
    sharding: Annotated[Sharding, Field(strict=False)] | None = Field(
        default=None, description="of data-parallel ranks"
    )
    precision: Annotated[Precision, Field(strict=False)] | None = Field(default=None, description="of matrix products")
    recompute: Annotated[Recompute, Field(strict=False)] | None = Field(
        default=None, description="activations computed again"
    )
    micro_batch: PositiveCount | None = Field(default=None, description="sequences in one forward pass of one worker")
    compile: bool | None = Field(default=None, description="whether torch.compile is used")
    ep: PositiveCount | None = Field(default=None, description="expert parallel size, inside dp x cp x tp")
    vpp: PositiveCount | None = Field(default=None, description="model chunks that each pipeline stage interleaves")
    framework: FrameworkName | None = Field(default=None, description="the recipe or framework that runs it")
    offload: Annotated[Offload, Field(strict=False)] | None = Field(
        default=None, description="what is kept in host memory"
    )
