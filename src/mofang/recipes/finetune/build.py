"""The model of a folder in memory, with adapters where only they are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from mofang.catalog.huggingface.numerics import read_numerics
from mofang.domain.hardware import Precision
from mofang.domain.recipe import FinetuneConfig
from mofang.domain.strategy import Recompute
from mofang.recipes.finetune.adapters import adapt
from mofang.recipes.finetune.folder import load_weights
from mofang.recipes.gpt.build import compile_blocks, recomputed
from mofang.recipes.gpt.model import Gpt
from mofang.recipes.training.parallel import Built, Replicated
from mofang.spec.weights import Stored

__all__ = ["build"]


def build(config: FinetuneConfig, folder: Path, stored: Mapping[str, Stored], device: torch.device) -> Built[Gpt]:
    """Return the model with the folder's weights; adapters have no values yet.

    Frozen weights are kept in the precision that products are computed in, trained ones in float32.

    Raises:
        CatalogError: the model computes something that the recipe does not know.
        DataError: a file of weights cannot be read.
    """
    task, strategy = config.task, config.strategy
    torch.set_float32_matmul_precision("highest")
    dtype = torch.bfloat16 if strategy.precision is Precision.BF16 else torch.float32
    numerics = read_numerics(folder, sequence=task.sequence)
    random = config.adapted and task.adapter.dropout > 0
    run_block = partial(recomputed, random=random) if strategy.recompute is Recompute.FULL else None
    with device, _made_in(dtype if config.adapted else torch.float32):
        model = Gpt(task.model, sequence=task.sequence, dtype=dtype, numerics=numerics, run_block=run_block)
    load_weights(model, stored)
    if config.adapted:
        adapt(model, task.model, task.adapter, device)
    model.fill_tables()
    layout = Replicated(model)
    if strategy.compile:
        compile_blocks(model)
    return Built(model, layout)


@contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    """Let new parameters have this type."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)
