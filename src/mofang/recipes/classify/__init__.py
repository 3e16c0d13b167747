"""Image classification: a vision transformer (arXiv:2010.11929) trained from scratch.

>>> # python -m mofang.recipes.classify --config recipe.json
"""
