"""What a recipe's data is to the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from torch import Tensor

__all__ = ["Batch", "Batches"]


class Batch(NamedTuple):
    """One micro-batch: the arguments of the model, which returns their mean loss.

    ``weight`` says how much that mean counts: in training relative to the mean micro-batch of the step (1 where all are
    alike), in validation as the number of things it is the mean of.
    """

    inputs: tuple[Tensor | None, ...]
    weight: float = 1.0


class Batches(Protocol):
    """The batches of one rank."""

    def train(self, step: int) -> Iterator[Batch]:
        """Yield the micro-batches of a step, counted from 0; the weights of all ranks together have the mean 1."""

    def validation(self) -> Iterator[Batch]:
        """Yield the validation batches; every rank yields the same number."""
