"""Batches of one rank: windows of the token file as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mofang.recipes.gpt.order import Split
from mofang.recipes.gpt.tokenizer import Tokens
from mofang.recipes.training.batch import Batch

__all__ = ["Batches"]


class Batches:
    """Reads windows; targets are the same windows one token later.

    Args:
        tokens: the token file.
        split: where training and validation text lie.
        rank: this worker among ``world_size``.
        world_size: number of workers.
        micro_batch: sequences in one forward pass.
        accumulation: forward passes of one step.
        validation_windows: how many windows one validation takes at most.
        device: where batches go.
    """

    def __init__(
        self,
        tokens: Tokens,
        split: Split,
        *,
        rank: int,
        world_size: int,
        micro_batch: int,
        accumulation: int,
        validation_windows: int,
        device: torch.device,
    ) -> None:
        self._tokens, self._split = tokens, split
        self._rank, self._world_size = rank, world_size
        self._micro_batch, self._accumulation = micro_batch, accumulation
        self._validation_windows = validation_windows
        self._device = device

    def train(self, step: int) -> Iterator[Batch]:
        """Yield this rank's micro-batches of a step, counted from 0.

        Ranks take consecutive parts of the global batch, so the text of a step does not depend on their number.
        """
        size = self._micro_batch * self._accumulation
        first = (step * self._world_size + self._rank) * size
        for start in range(first, first + size, self._micro_batch):
            yield Batch(self._batch([self._split.train_start(start + index) for index in range(self._micro_batch)]))

    def validation(self) -> Iterator[Batch]:
        """Yield this rank's validation batches, weighted by their windows.

        Every rank yields the same number of batches, as sharded layouts need; one that is there only for that counts 0.
        """
        starts = self._split.validation_starts(self._validation_windows)
        batches = [starts[at : at + self._micro_batch] for at in range(0, len(starts), self._micro_batch)]
        for first in range(0, len(batches), self._world_size):
            index = first + self._rank
            chosen = batches[index] if index < len(batches) else batches[0]
            yield Batch(self._batch(chosen), weight=len(chosen) if index < len(batches) else 0)

    def prompt(self, length: int) -> list[int]:
        """Return the first tokens of the validation text, or of all text where there is none."""
        start = self._split.train if self._split.train < self._split.total else 0
        return [int(token) for token in self._tokens[start : start + length]]

    def _batch(self, starts: Sequence[int]) -> tuple[Tensor, Tensor]:
        length = self._split.sequence + 1
        windows = np.stack([self._tokens[start : start + length] for start in starts]).astype(np.int64)
        whole = torch.from_numpy(windows)
        if self._device.type == "cuda":
            whole = whole.pin_memory().to(self._device, non_blocking=True)
        return whole[:, :-1], whole[:, 1:]
