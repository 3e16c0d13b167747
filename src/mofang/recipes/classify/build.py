"""The model in memory, laid out over ranks as the strategy says."""

from __future__ import annotations

import torch

from mofang.domain.hardware import Precision
from mofang.domain.recipe import ClassifyConfig
from mofang.recipes.classify.model import Vit, initialise
from mofang.recipes.training.parallel import Built, Replicated

__all__ = ["build"]


def build(config: ClassifyConfig, device: torch.device) -> Built[Vit]:
    """Return the model on its device, with its first values."""
    task = config.task
    torch.set_float32_matmul_precision("highest")
    dtype = torch.bfloat16 if config.strategy.precision is Precision.BF16 else torch.float32
    with device:
        model = Vit(task.model, channels=task.data.channels, classes=task.data.num_classes, dtype=dtype)
    for name, value in model.named_parameters():
        initialise(name, value, layers=task.model.layers, seed=task.seed)
    layout = Replicated(model)
    if config.strategy.compile:
        for block in model.blocks:
            block.compile()
    return Built(model, layout)
