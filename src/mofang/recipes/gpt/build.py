"""The model in memory, laid out over ranks as the strategy says."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mofang.domain.hardware import Precision
from mofang.domain.recipe import GptConfig
from mofang.domain.strategy import Recompute, Sharding
from mofang.recipes.gpt.model import Block, Gpt, initialise
from mofang.recipes.training.parallel import Built, DataParallel, FullySharded, Replicated
from mofang.recovery.checkpoint.state import Part

__all__ = ["build", "compile_blocks", "fill", "recomputed"]


def build(config: GptConfig, device: torch.device) -> Built[Gpt]:
    """Return the model on its device; its weights have memory but no values yet."""
    torch.set_float32_matmul_precision("high" if config.strategy.precision is Precision.TF32 else "highest")
    dtype = torch.bfloat16 if config.strategy.precision is Precision.BF16 else torch.float32
    run_block = recomputed if config.strategy.recompute is Recompute.FULL else None
    sharded = config.strategy.sharding is Sharding.FSDP
    # Only what is to be cut goes by the meta device: leaving it loads sympy, half a second of every start.
    with torch.device("meta") if sharded else device:
        model = Gpt(config.task.model, sequence=config.task.sequence, dtype=dtype, run_block=run_block)
    layout: DataParallel
    if sharded:
        layout = FullySharded(model, blocks=model.blocks, dtype=dtype, device=device)
        model.to_empty(device=device)
    else:
        layout = Replicated(model)
    model.fill_tables()
    if config.strategy.compile:
        compile_blocks(model)
    return Built(model, layout)


def compile_blocks(model: Gpt) -> None:
    """Compile block by block: they are alike, so it is done once for all."""
    for block in model.blocks:
        block.compile()
    model.head.compile()


def recomputed(
    block: Block, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, *, random: bool = False
) -> Tensor:
    """Keep only the block's input and compute the rest again in the backward pass.

    Where something in the block is ``random``, the state of the generators is kept too.
    """
    from torch.utils.checkpoint import checkpoint  # noqa: PLC0415 - loads torch's compiler

    outputs: Tensor = checkpoint(block, hidden, cos, sin, mask, use_reentrant=False, preserve_rng_state=random)
    return outputs


@torch.no_grad()
def fill(parts: Mapping[str, Part], *, layers: int, seed: int) -> None:
    """Give every parameter its first value; this rank's box is cut out of the whole."""
    for name, part in parts.items():
        whole = initialise(name, part.shape, layers=layers, seed=seed, device=part.tensor.device)
        box = tuple(slice(at, at + size) for at, size in zip(part.offset, part.tensor.shape, strict=True))
        part.tensor.copy_(whole[box])
