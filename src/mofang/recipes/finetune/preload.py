"""What a standby loads before workers of this recipe are forked from it."""

from __future__ import annotations

import mofang.recipes.finetune.main  # noqa: F401
from mofang.domain.recipe import FinetuneConfig
from mofang.recipes.training.preload import warm_up

warm_up(FinetuneConfig)
