"""What a standby loads before workers of this recipe are forked from it."""

from __future__ import annotations

import mofang.recipes.gpt.main  # noqa: F401
from mofang.domain.recipe import GptConfig
from mofang.recipes.training.preload import warm_up

warm_up(GptConfig)
