"""Batches of one rank: windows of the token file as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mofang.recipes.gpt.order import Split
from mofang.recipes.gpt.tokenizer import Tokens
from mofang.recipes.training.batch import Batch
from mofang.recipes.training.share import Share

__all__ = ["Batches"]


class Batches:
    """Reads windows; targets are the same windows one token later.

    Args:
        tokens: the token file.
        split: where training and validation text lie.
        share: this worker's part of the global batch.
        validation_windows: how many windows one validation takes at most.
        device: where batches go.
    """

    def __init__(
        self,
        tokens: Tokens,
        split: Split,
        *,
        share: Share,
        validation_windows: int,
        device: torch.device,
    ) -> None:
        self._tokens, self._split = tokens, split
        self._share = share
        self._validation_windows = validation_windows
        self._device = device

    def train(self, step: int) -> Iterator[Batch]:
        """Yield this rank's micro-batches of a step, counted from 0.

        Ranks take consecutive parts of the global batch, so the text of a step does not depend on their number.
        """
        for piece in self._share.pieces():
            first = step * self._share.global_batch + piece.first
            starts = [self._split.train_start(first + index) for index in range(piece.size)]
            yield Batch(self._batch(starts), piece.weight)

    def validation(self) -> Iterator[Batch]:
        """Yield this rank's validation batches, weighted by their windows.

        Every rank yields the same number of batches, as sharded layouts need; one that is there only for that counts 0.
        """
        starts = self._split.validation_starts(self._validation_windows)
        size = self._share.micro_batch
        batches = [starts[at : at + size] for at in range(0, len(starts), size)]
        for first in range(0, len(batches), self._share.world_size):
            index = first + self._share.rank
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
