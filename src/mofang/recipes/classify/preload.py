"""What a standby loads before workers of this recipe are forked from it."""

from __future__ import annotations

import mofang.recipes.classify.main  # noqa: F401
from mofang.domain.recipe import ClassifyConfig
from mofang.recipes.training.preload import warm_up

warm_up(ClassifyConfig)
