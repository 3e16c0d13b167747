"""Pre-training of a decoder-only model: ``python -m mofang.recipes.gpt --config recipe.json``.

What a start costs is what a recovery costs, so modules here import torch and nothing else that is big: neither FSDP
nor the compiler is loaded unless the strategy asks for it.
"""
