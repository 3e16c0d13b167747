"""What the codes of number formats mean for memory; every array is indexed by a precision's code."""

from __future__ import annotations

import numpy as np

from mofang.domain.hardware import Precision
from mofang.matching.candidates import PRECISIONS

__all__ = ["EIGHT", "HALF_OR_WIDER", "WIDE"]

WIDE = np.array([precision.bytes >= 4 for precision in PRECISIONS])  # weights are computed with as they are kept
EIGHT = np.array([precision in {Precision.FP8, Precision.INT8, Precision.FP4} for precision in PRECISIONS])
# Activations of products in 8 or 4 bits are kept in 16.
HALF_OR_WIDER = np.array([max(precision.bytes, 2.0) for precision in PRECISIONS])
