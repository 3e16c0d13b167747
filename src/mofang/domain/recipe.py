"""What a recipe is asked to do, written by its launcher and read by the recipe; and what it can do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from mofang.domain.hardware import Precision
from mofang.domain.model import Attention, ModelArchitecture
from mofang.domain.scenario import Pretrain
from mofang.domain.strategy import Strategy
from mofang.errors import SpecError

__all__ = ["DeviceKind", "GptConfig", "check_gpt_architecture"]

_PRECISIONS = (Precision.FP32, Precision.TF32, Precision.BF16)


class DeviceKind(StrEnum):
    """Where tensors live."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"  # CUDA where there is a GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class GptConfig:
    """One training run, from ``recipe.json``.

    Intervals in the task are steps; 0 switches checkpoints, validation or the sample off, the ones at the end included.
    ``checkpoint_every_steps`` None keeps only the checkpoint at the end. ``peak_flops`` is FLOP/s of all devices
    together, what MFU is measured against; 0: unknown.
    """

    task: Pretrain
    strategy: Strategy
    steps: int
    peak_flops: float = 0.0
    device: DeviceKind = DeviceKind.AUTO

    def __post_init__(self) -> None:
        self.strategy.check_batch(self.task.global_batch)
        if self.steps < 1:
            raise SpecError(f"steps must be at least 1, not {self.steps}")
        _check_strategy(self.strategy)
        check_gpt_architecture(self.task.model)

    @property
    def saves(self) -> bool:
        """Whether checkpoints are kept at all."""
        return self.task.checkpoint_every_steps != 0

    @property
    def save_every(self) -> int:
        """Steps from one checkpoint to the next; 0: only one, at the end."""
        return self.task.checkpoint_every_steps or 0

    @property
    def fault_step(self) -> int | None:
        """Steps after which the demonstration kills a worker.

        Not right after a checkpoint, but about half-way to the next one, so that some work is lost.
        """
        if self.task.fault_at_fraction is None:
            return None
        step, every = max(1, math.ceil(self.steps * self.task.fault_at_fraction)), self.save_every
        if every > 1 and step % every < every // 2:
            step += every // 2 - step % every
        return min(step, self.steps - 1)


def _check_strategy(strategy: Strategy) -> None:
    cut = strategy.parallelism
    if cut.world_size != cut.dp or cut.ep != 1:
        raise SpecError("the gpt recipe is data parallel: tp, pp, cp and ep must be 1", hint="use ddp or fsdp")
    if strategy.precision not in _PRECISIONS:
        raise SpecError(
            f"the gpt recipe cannot train in {strategy.precision}", hint=f"use one of {', '.join(_PRECISIONS)}"
        )


def check_gpt_architecture(model: ModelArchitecture) -> None:
    """Raise ``SpecError`` unless the model is RMSNorm + RoPE + SwiGLU + grouped-query attention."""
    other = {
        "latent attention": model.attention is not Attention.GROUPED,
        "experts": model.moe is not None,
        "learned positions": model.learned_positions,
        "a feed-forward without a gate": not model.gated_ffn,
        "LayerNorm": model.norm_bias,
        "a norm on the embedding": model.embedding_norm,
        "a wide norm on queries and keys": model.qk_norm_wide,
        "attention sinks": model.attention_sinks,
        "no final norm": not model.final_norm,
        f"{model.norms_per_layer} norms a layer": model.norms_per_layer != 2,
        "a bias on the head": model.lm_head_bias,
        "an odd head size": model.head_dim % 2 == 1,
    }
    if wanted := [what for what, asked in other.items() if asked]:
        raise SpecError(
            f"the gpt recipe cannot build model {model.name}: it has {', '.join(wanted)}",
            hint="choose a model of the Llama family, or run your own program with a command scenario",
        )
