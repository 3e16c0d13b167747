"""The random generators of a process as tensors, so that they travel in a checkpoint without pickle."""

from __future__ import annotations

import math
import random  # noqa: TID251 - the state of the global generator is saved and put back, nothing is drawn from it
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["random_states", "restore_random_states"]


def random_states() -> dict[str, Tensor]:
    """Return the states of the generators of Python, torch, CUDA (where used) and NumPy (where loaded)."""
    states = {"random/python": _python_state(), "random/torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random/cuda"] = torch.cuda.get_rng_state()
    if "numpy.random" in sys.modules:
        states["random/numpy"] = _numpy_state(sys.modules["numpy.random"])
    return states


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Put back what ``random_states`` returned, as far as it is there."""
    if "random/python" in states:
        random.setstate(_python_tuple(states["random/python"]))
    if "random/torch" in states:
        torch.set_rng_state(states["random/torch"])
    if "random/cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["random/cuda"])
    if "random/numpy" in states and "numpy.random" in sys.modules:
        sys.modules["numpy.random"].set_state(_numpy_tuple(states["random/numpy"]))


def _python_state() -> Tensor:
    version, words, spare = random.getstate()
    # Every word is below 2^32, so float64 holds it exactly; the spare Gaussian is one, or NaN for none.
    return torch.tensor([version, *words, math.nan if spare is None else spare], dtype=torch.float64)


def _python_tuple(state: Tensor) -> tuple[Any, ...]:
    version, *words, spare = state.tolist()
    return int(version), tuple(int(word) for word in words), None if math.isnan(spare) else spare


def _numpy_state(module: Any) -> Tensor:
    _, words, position, has_spare, spare = module.get_state()
    return torch.tensor([*words.tolist(), position, has_spare, spare], dtype=torch.float64)


def _numpy_tuple(state: Tensor) -> tuple[Any, ...]:
    *words, position, has_spare, spare = state.tolist()
    return "MT19937", [int(word) for word in words], int(position), int(has_spare), spare
