"""``python -m mofang.recipes.gpt --config recipe.json``."""

from __future__ import annotations

import sys

from mofang.domain.recipe import GptConfig
from mofang.recipes.training.entry import enter

if __name__ == "__main__":
    sys.exit(enter("mofang.recipes.gpt", GptConfig, "Train a decoder-only model from scratch."))
