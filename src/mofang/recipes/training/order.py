"""Orders that look random and follow from a seed alone, so that a run can go on at any step on any layout."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["shuffled"]


def shuffled(size: int, seed: int) -> npt.NDArray[np.int64]:
    """Return 0..size-1 in an order that follows from the seed alone (SplitMix64, Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        value = np.arange(size, dtype=np.uint64) + np.uint64(seed % 2**32) * np.uint64(0x9E3779B97F4A7C15)
        value += np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(value ^ (value >> np.uint64(31)), kind="stable")
