"""What a training recipe has loaded before workers are forked: what runs load late, and what reads the plan."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from pathlib import Path

from mofang.domain.recipe import TrainingConfig
from mofang.domain.strategy import Sharding
from mofang.errors import MofangError
from mofang.recipes.training.entry import read_config

__all__ = ["warm_up"]

_LATE = ("safetensors.torch", "torch.utils._device")
_SHARDED = ("torch.distributed.device_mesh", "torch.distributed.fsdp", "torch.distributed.tensor.debug")


def warm_up(kind: type[TrainingConfig]) -> None:
    """Load what the workers of a recipe load late, and build the reader of its configuration.

    The command line is the workers' own; a plan that cannot be read is for them to refuse.

    Args:
        kind: the type of the recipe's configuration.
    """
    for name in _LATE:
        importlib.import_module(name)
    with suppress(MofangError, IndexError, ValueError):
        config = read_config(kind, Path(sys.argv[sys.argv.index("--config") + 1]))
        for name in _SHARDED if config.strategy.sharding is Sharding.FSDP else ():
            importlib.import_module(name)
