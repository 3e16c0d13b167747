"""How fast each chip runs each operator: curves fitted from published timings, borrowed from relatives where none are.

>>> curves = curves_of(Catalog.load().accelerator("h100"))
>>> curves.matmul("bf16", [1, 4096], 8192, 8192)  # seconds
"""

from mofang.matching.curves.curves import Curves
from mofang.matching.curves.lookup import curves_of

__all__ = ["Curves", "curves_of"]
