"""How fast each pair of a head's values turns with the position (RoPE, arXiv:2104.09864)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mofang.domain.recipe import Rotary

__all__ = ["turning_rates"]


def turning_rates(rotary: Rotary, head_dim: int) -> Tensor:
    """Return the angle a position, in radians, of each of the head's pairs; float64, the fastest first."""
    half = head_dim // 2
    rates = rotary.base ** -(torch.arange(half, dtype=torch.float64) / half)
    if rotary.stretch is None:
        return rates / rotary.factor
    # Llama 3.1: waves longer than the trained context are slowed down, short ones kept, those between blended.
    stretch = rotary.stretch
    waves = stretch.original_length * rates / (2 * math.pi)  # turns within the context that the model was trained on
    blend = (waves - stretch.low_turns) / (stretch.high_turns - stretch.low_turns)
    kept = blend.clamp(0.0, 1.0)
    return rates * (kept + (1.0 - kept) / rotary.factor)
