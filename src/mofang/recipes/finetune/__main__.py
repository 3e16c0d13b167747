"""``python -m mofang.recipes.finetune --config recipe.json``."""

from __future__ import annotations

import sys

from mofang.domain.recipe import FinetuneConfig
from mofang.recipes.training.entry import enter

if __name__ == "__main__":
    sys.exit(enter("mofang.recipes.finetune", FinetuneConfig, "Train a published language model further."))
