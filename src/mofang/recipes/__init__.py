"""Programs that a plan can launch. Each runs as ``python -m mofang.recipes.NAME`` under torchrun's variables."""
