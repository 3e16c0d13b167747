"""Batches of one rank: rows of stretches as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mofang.recipes.finetune.packing import Rows, Stretches
from mofang.recipes.gpt.order import permuted
from mofang.recipes.gpt.tokenizer import Tokens
from mofang.recipes.training.batch import Batch
from mofang.recipes.training.share import Share

__all__ = ["FinetuneBatches", "Side"]

_IGNORED = -100  # torch's mark of a target that does not count

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The rows to train on, or those to validate with."""

    stretches: Stretches
    rows: Rows
    targets: Ints  # of each row

    @classmethod
    def of(cls, stretches: Stretches, rows: Rows) -> Side:
        """Return the rows with their targets counted."""
        counted = np.concatenate(([0], np.cumsum(stretches.targets[rows.members])))
        return cls(stretches=stretches, rows=rows, targets=np.diff(counted[rows.begins]))


class FinetuneBatches:
    """Reads rows; which row comes when follows from seed and step alone, whatever the layout.

    Args:
        tokens: the token file.
        train: the rows to train on.
        validation: the rows to validate with.
        length: positions of every batch; None: as many as its longest row has.
        seed: of the order.
        share: this worker's part of the global batch.
        validation_rows: how many rows one validation takes at most.
        device: where batches go.
    """

    def __init__(
        self,
        tokens: Tokens,
        train: Side,
        validation: Side,
        *,
        length: int | None,
        seed: int,
        share: Share,
        validation_rows: int,
        device: torch.device,
    ) -> None:
        self._tokens, self._train, self._validation = tokens, train, validation
        self._length, self._seed = length, seed
        self._share = share
        self._validation_rows, self._device = validation_rows, device

    def row_at(self, position: int) -> int:
        """Return the row at a place in the stream of all epochs."""
        epoch, index = divmod(position, len(self._train.rows))
        return permuted(index, len(self._train.rows), (self._seed << 20) + epoch)

    def train(self, step: int) -> Iterator[Batch]:
        """Yield this rank's micro-batches of a step, weighted by their targets.

        Every rank knows the targets of the whole step, so that the loss is the mean over all of them without asking.
        """
        share = self._share
        whole = [self.row_at(step * share.global_batch + at) for at in range(share.global_batch)]
        each = float(self._train.targets[whole].sum()) / (share.passes * share.world_size)
        for piece in share.pieces():
            rows = whole[piece.first : piece.first + piece.size]
            weight = float(self._train.targets[rows].sum()) / each if piece.weight else 0.0
            yield self._batch(self._train, rows, weight=weight)

    def validation(self) -> Iterator[Batch]:
        """Yield this rank's validation batches, weighted by their targets.

        Every rank yields the same number of batches; one that is there only for that counts 0.
        """
        side = self._validation
        used = min(self._validation_rows, len(side.rows))
        rows = [number * len(side.rows) // used for number in range(used)]
        size = self._share.micro_batch
        batches = [rows[at : at + size] for at in range(0, used, size)]
        for first in range(0, len(batches), self._share.world_size):
            index = first + self._share.rank
            chosen = batches[index] if index < len(batches) else batches[0]
            weight = float(side.targets[chosen].sum()) if index < len(batches) else 0.0
            yield self._batch(side, chosen, weight=weight)

    def prompt(self, most: int) -> list[int]:
        """Return the beginning of a document kept for validation, or of one to train on: its prompt, if it has one."""
        side = self._validation if len(self._validation.rows) else self._train
        start, unlearned = int(side.stretches.start[0]), int(side.stretches.unlearned[0])
        length = min(unlearned + 1 if unlearned else most, int(side.stretches.positions[0]))
        return [int(token) for token in self._tokens[start : start + length]]

    def _batch(self, side: Side, rows: Sequence[int], *, weight: float) -> Batch:
        members = [side.rows.of(row) for row in rows]
        longest = max(int(side.stretches.positions[one].sum()) for one in members)
        length = self._length or longest
        tables = [self._row(side.stretches, one, length) for one in members]
        tokens, targets, positions, documents = (self._tensor(np.stack(column)) for column in zip(*tables, strict=True))
        if all(len(one) == 1 for one in members):  # what is left over lies behind, where nothing looks
            return Batch((tokens, targets, None, None), weight)
        return Batch((tokens, targets, positions, _within(documents)), weight)

    def _row(self, stretches: Stretches, members: Ints, length: int) -> tuple[Ints, Ints, Ints, Ints]:
        """Return tokens, targets, positions and the number of the document at each place of a row."""
        tokens, positions = np.zeros(length, dtype=np.int64), np.zeros(length, dtype=np.int64)
        targets, documents = np.full(length, _IGNORED, dtype=np.int64), np.full(length, -1, dtype=np.int64)
        at = 0
        for number, index in enumerate(members):
            start, size, skip = (
                int(column[index]) for column in (stretches.start, stretches.positions, stretches.unlearned)
            )
            text = self._tokens[start : start + size + 1].astype(np.int64)
            tokens[at : at + size], positions[at : at + size] = text[:-1], np.arange(size)
            targets[at + skip : at + size] = text[1 + skip :]
            documents[at : at + size] = number
            at += size
        return tokens, targets, positions, documents

    def _tensor(self, table: Ints) -> Tensor:
        whole = torch.from_numpy(table)
        if self._device.type == "cuda":
            whole = whole.pin_memory().to(self._device, non_blocking=True)
        return whole


def _within(documents: Tensor) -> Tensor:
    """Return which places see which (batch, 1, length, length): those of their own document that are not later."""
    same = documents.unsqueeze(2) == documents.unsqueeze(1)
    return same.tril_().unsqueeze(1)
