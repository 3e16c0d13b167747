"""How a model is trained: method, precision and parallelism."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mofang.domain.hardware import Precision
from mofang.errors import SpecError

__all__ = ["Method", "Offload", "Parallelism", "Recompute", "Sharding", "Strategy"]


class Method(StrEnum):
    """Which weights are trained."""

    FULL = "full"
    LORA = "lora"  # low-rank adapters beside frozen weights (arXiv:2106.09685)
    QLORA = "qlora"  # the same over weights kept in 4 bits (arXiv:2305.14314)


class Sharding(StrEnum):
    """How data-parallel ranks hold the state."""

    NONE = "none"  # one rank
    DDP = "ddp"  # every rank holds all of it
    ZERO1 = "zero1"  # optimiser state sharded (arXiv:1910.02054); Megatron-LM's distributed optimizer
    ZERO2 = "zero2"  # gradients too
    FSDP = "fsdp"  # weights, gradients and optimiser state sharded (ZeRO-3, arXiv:1910.02054)


class Recompute(StrEnum):
    """Which activations are computed again in the backward pass (arXiv:2205.05198)."""

    NONE = "none"
    SELECTIVE = "selective"  # the attention core, or what a framework calls so
    FULL = "full"


class Offload(StrEnum):
    """What is kept in host memory and moved when it is needed (ZeRO-Offload, arXiv:2101.06840)."""

    NONE = "none"
    OPTIMIZER = "optimizer"  # the optimiser's state; the update runs on the host
    ALL = "all"  # the weights too


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How one job is cut: data x tensor x pipeline x context; experts lie inside data x context x tensor.

    ``vpp`` is how many model chunks each pipeline stage interleaves (arXiv:2104.04473, section 2.2); it takes no ranks.
    Tensor parallelism includes sequence parallelism (arXiv:2205.05198) wherever the framework has it.
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    vpp: int = 1

    def __post_init__(self) -> None:
        for name in ("dp", "tp", "pp", "cp", "ep", "vpp"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} must be at least 1, not {getattr(self, name)}")
        if (self.dp * self.cp * self.tp) % self.ep:
            raise SpecError(
                f"ep must divide dp x cp x tp: {self.dp} x {self.cp} x {self.tp} is not a multiple of {self.ep}"
            )
        if self.vpp > 1 and self.pp == 1:
            raise SpecError(f"vpp = {self.vpp} needs pp > 1", hint="leave vpp out, or cut the model into stages")

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.dp * self.tp * self.pp * self.cp

    def check(self, world_size: int) -> None:
        """Raise ``SpecError`` unless the degrees multiply to ``world_size``."""
        if self.world_size != world_size:
            raise SpecError(
                f"dp x tp x pp x cp != world size: {self.dp} x {self.tp} x {self.pp} x {self.cp} = "
                f"{self.world_size} != {world_size}",
                hint="change one of the degrees, or the number of devices",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How it is done. ``threads`` is cores a worker (1 on accelerators); batches are sequences."""

    method: Method = Method.FULL
    framework: str = "gpt"  # the recipe or framework that a launcher knows
    parallelism: Parallelism = Parallelism()
    sharding: Sharding = Sharding.NONE
    precision: Precision = Precision.FP32
    recompute: Recompute = Recompute.NONE
    micro_batch: int = 1
    accumulation: int = 1
    threads: int = 1
    compile: bool = False
    offload: Offload = Offload.NONE

    def __post_init__(self) -> None:
        for name in ("micro_batch", "accumulation", "threads"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.sharding is Sharding.NONE and self.parallelism.dp > 1:
            raise SpecError(f"dp = {self.parallelism.dp} needs sharding ddp or fsdp")

    @property
    def global_batch(self) -> int:
        """Sequences in one optimiser step."""
        return self.micro_batch * self.accumulation * self.parallelism.dp

    def check_batch(self, global_batch: int) -> None:
        """Raise ``SpecError`` unless the batches multiply to ``global_batch``."""
        if self.global_batch != global_batch:
            raise SpecError(
                f"micro-batch x accumulation x dp != global batch: {self.micro_batch} x {self.accumulation} x "
                f"{self.parallelism.dp} = {self.global_batch} != {global_batch}",
                hint="change the micro-batch, the accumulation or the global batch",
            )
