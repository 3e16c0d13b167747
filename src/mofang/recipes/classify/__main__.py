"""``python -m mofang.recipes.classify --config recipe.json``."""

from __future__ import annotations

import sys

from mofang.domain.recipe import ClassifyConfig
from mofang.recipes.training.entry import enter

if __name__ == "__main__":
    sys.exit(enter("mofang.recipes.classify", ClassifyConfig, "Train an image classifier."))
