"""What a recipe is asked to do, written by its launcher and read by the recipe; and what it can do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from mofang.domain.hardware import Precision
from mofang.domain.model import Attention, ModelArchitecture
from mofang.domain.scenario import Classify, Finetune, Pretrain
from mofang.domain.strategy import Method, Offload, Recompute, Sharding, Strategy
from mofang.errors import SpecError

__all__ = [
    "ClassifyConfig",
    "DeviceKind",
    "FinetuneConfig",
    "GptConfig",
    "Numerics",
    "Rotary",
    "ServingConfig",
    "Stretch",
    "TrainingConfig",
    "check_gpt_architecture",
]

_PRECISIONS = (Precision.FP32, Precision.TF32, Precision.BF16)


class DeviceKind(StrEnum):
    """Where tensors live."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"  # CUDA where there is a GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Slower rotation of long waves only (Llama 3.1, arXiv:2407.21783, section 3.4.2).

    Pairs that turn more than ``high_turns`` times within ``original_length`` keep their rate, those that turn less than
    ``low_turns`` times are slowed down in full.
    """

    original_length: int
    low_turns: float
    high_turns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary positions (arXiv:2104.09864): the base of their rates, and by which factor they are slowed down.

    Without ``stretch`` all of them are slowed alike (arXiv:2306.15595).
    """

    base: float = 10_000.0
    factor: float = 1.0
    stretch: Stretch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """What two models of equal sizes may still compute differently."""

    norm_epsilon: float = 1e-6
    rotary: Rotary = Rotary()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """One training run, from ``recipe.json``.

    Intervals in the task are steps; 0 switches checkpoints, validation or the sample off, the ones at the end included.
    ``checkpoint_every_steps`` None keeps only the checkpoint at the end. ``peak_flops`` is FLOP/s of all devices
    together, what MFU is measured against; 0: unknown.
    """

    task: Pretrain | Finetune | Classify
    strategy: Strategy
    steps: int
    peak_flops: float = 0.0
    device: DeviceKind = DeviceKind.AUTO

    def __post_init__(self) -> None:
        self.strategy.check_batch(self.task.global_batch)
        if self.steps < 1:
            raise SpecError(f"steps must be at least 1, not {self.steps}")

    @property
    def saves(self) -> bool:
        """Whether checkpoints are kept at all."""
        return self.task.checkpoint_every_steps != 0

    @property
    def save_every(self) -> int:
        """Steps from one checkpoint to the next; 0: only one, at the end."""
        return self.task.checkpoint_every_steps or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GptConfig(TrainingConfig):
    """Pre-training from scratch."""

    task: Pretrain

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        _check_strategy(self.strategy, "gpt", _PRECISIONS)
        check_gpt_architecture(self.task.model)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Fine-tuning of a folder in Hugging Face format, whose result goes into the folder ``output``.

    ``step_flops`` is FLOP of one optimiser step of the whole job, as the plan's MFU counts them; 0: unknown.
    """

    task: Finetune
    output: str
    step_flops: float = 0.0

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        _check_method(self.strategy.method)
        _check_strategy(self.strategy, "finetune", (Precision.FP32, Precision.BF16))
        check_gpt_architecture(self.task.model)
        if self.task.model_path is None:
            raise SpecError(
                f"fine-tuning {self.task.model.name} needs its weights, and the job has only its name",
                hint="write model: the path of a folder with config.json, *.safetensors and tokenizer.json",
            )
        if not self.task.data.paths:
            raise SpecError("there is nothing to train on: data.text is missing", hint="write data: {text: [...]}")

    @property
    def adapted(self) -> bool:
        """Whether only adapters are trained."""
        return self.strategy.method is Method.LORA


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyConfig(TrainingConfig):
    """Training of an image classifier, whose result goes into the folder ``output``.

    ``step_flops`` is FLOP of one optimiser step of the whole job, as the plan's MFU counts them; 0: unknown.
    """

    task: Classify
    output: str
    step_flops: float = 0.0

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        _check_strategy(self.strategy, "classify", (Precision.FP32, Precision.BF16))
        if self.strategy.sharding not in {Sharding.NONE, Sharding.DDP} or self.strategy.recompute is not Recompute.NONE:
            raise SpecError("the classify recipe keeps all weights on every device", hint="use ddp without recompute")
        if not self.task.data.path:
            raise SpecError("there is nothing to train on: data.images is missing", hint="write data: {images: folder}")


def _check_method(method: Method) -> None:
    if method is Method.QLORA:
        raise SpecError(
            "the finetune recipe cannot train with qlora: weights in 4 bits need kernels that it does not have",
            hint="use lora or full, or a plan of another framework",
        )


def _check_strategy(strategy: Strategy, recipe: str, precisions: tuple[Precision, ...]) -> None:
    cut = strategy.parallelism
    if cut.world_size != cut.dp or cut.ep != 1:
        raise SpecError(f"the {recipe} recipe is data parallel: tp, pp, cp and ep must be 1", hint="use ddp or fsdp")
    if strategy.precision not in precisions:
        raise SpecError(
            f"the {recipe} recipe cannot train in {strategy.precision}", hint=f"use one of {', '.join(precisions)}"
        )
    if strategy.offload is not Offload.NONE:
        raise SpecError(f"the {recipe} recipe keeps everything on the device", hint="use offload: none")


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
            f"the recipe cannot build model {model.name}: it has {', '.join(wanted)}",
            hint="choose a model of the Llama family, or run your own program with a command scenario",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """One worker of a service, from ``recipe.json``: a whole copy of the model on its own device or cores.

    ``concurrency`` requests are decoded together at most. A worker of rank r listens on ``port`` + r; port 0 takes any
    free one. Other addresses than loopback need a token.
    """

    model_path: str
    precision: Precision
    concurrency: int
    max_sequence: int
    kv_tokens: int  # tokens that the key-value cache has room for
    host: str = "127.0.0.1"
    port: int = 0
    name: str = "model"
    seed: int = 0
    device: DeviceKind = DeviceKind.AUTO

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_sequence", "kv_tokens"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.precision not in {Precision.FP32, Precision.BF16}:
            raise SpecError(f"the serving recipe cannot compute in {self.precision}", hint="use fp32 or bf16")
        if not 0 <= self.port < 65536:
            raise SpecError(f"port {self.port} does not exist", hint="use 0 for any free one, or 1024..65535")
