"""Whether a plan's memory is sure to be enough: what is left, beside what the memory model errs by."""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
import yaml
from numpy.typing import NDArray

__all__ = ["is_tight", "memory_error"]


@cache
def memory_error() -> float:
    """Return how far predicted memory typically is from what was measured, as a part of it; read once.

    ``benchmarks/memory_published.py --write`` works it out with each source left out.
    """
    text = resources.files("mofang.matching").joinpath("data/memory_error.yaml").read_text(encoding="utf-8")
    return float(yaml.safe_load(text)["typical"])


def is_tight(need: NDArray[np.float64], limit: float) -> NDArray[np.bool_]:
    """Return which plans would not fit if they needed more by the typical error; a limit of 0 is none."""
    if not limit:
        return np.zeros(len(need), dtype=np.bool_)
    return need * (1.0 + memory_error()) > limit
