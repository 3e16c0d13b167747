"""Which images are trained on when: a pure function of seed and position, so it can go on at any step on any layout."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mofang.domain.scenario import Augmentation
from mofang.recipes.classify.images import Bytes, ImageSet
from mofang.recipes.training.batch import Batch
from mofang.recipes.training.order import shuffled
from mofang.recipes.training.share import Share

__all__ = ["ImageBatches", "augmented", "split_images"]

Indices = npt.NDArray[np.int64]

_EPOCH_SEED = 1_000_003  # far apart, so that no epoch of one seed is one of the next


def split_images(count: int, *, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Return the numbers of the images to train on and of those, one at least, kept for validation.

    A fraction of 0 keeps none.
    """
    kept = min(count - 1, max(1, round(count * fraction))) if fraction > 0 else 0
    order = shuffled(count, seed)
    return order[kept:], order[:kept]


class ImageBatches:
    """Reads images and their labels; ranks take consecutive parts of the global batch.

    Args:
        data: all images.
        train: the numbers of those to train on.
        validation: the numbers of those kept for validation.
        augmentation: how images to train on are changed at random.
        seed: of order and changes.
        share: this worker's part of the global batch.
        device: where batches go.
    """

    def __init__(
        self,
        data: ImageSet,
        train: Indices,
        validation: Indices,
        *,
        augmentation: Augmentation,
        seed: int,
        share: Share,
        device: torch.device,
    ) -> None:
        self._data, self._train, self._validation = data, train, validation
        self._augmentation, self._seed = augmentation, seed
        self._share = share
        self._device = device
        self._order = lru_cache(2)(self._epoch_order)  # a batch may begin in one epoch and end in the next

    def train(self, step: int) -> Iterator[Batch]:
        """Yield this rank's micro-batches of a step, counted from 0."""
        whole = self._share.global_batch
        changes = _changes(self._augmentation, whole, (self._seed, step))
        for piece in self._share.pieces():
            part = np.arange(piece.first, piece.first + piece.size)
            chosen = self._numbers(step * whole + part)
            images = augmented(self._data.images[chosen], changes[part])
            yield self._batch(images, chosen, weight=piece.weight)

    def _numbers(self, positions: Indices) -> Indices:
        """Return the images at these positions since the start of training, counted over all ranks."""
        epochs, places = np.divmod(positions, len(self._train))
        numbers = np.empty_like(positions)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            numbers[here] = self._order(epoch)[places[here]]
        return numbers

    def _epoch_order(self, epoch: int) -> Indices:
        return self._train[shuffled(len(self._train), self._seed * _EPOCH_SEED + epoch + 1)]

    def validation(self) -> Iterator[Batch]:
        """Yield this rank's validation batches, weighted by their images.

        Every rank yields the same number of batches; one that is there only for that counts 0.
        """
        size = self._share.micro_batch
        parts = [self._validation[at : at + size] for at in range(0, len(self._validation), size)]
        for first in range(0, len(parts), self._share.world_size):
            index = first + self._share.rank
            chosen = parts[index] if index < len(parts) else parts[0]
            weight = len(chosen) if index < len(parts) else 0
            yield self._batch(self._data.images[chosen], chosen, weight=weight)

    def _batch(self, images: Bytes, chosen: Indices, weight: float = 1.0) -> Batch:
        return Batch((self._moved(torch.from_numpy(images)), self._moved(self._labels(chosen))), weight)

    def _labels(self, chosen: Indices) -> Tensor:
        return torch.from_numpy(self._data.labels[chosen])

    def _moved(self, values: Tensor) -> Tensor:
        return values.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else values


def _changes(augmentation: Augmentation, count: int, seed: tuple[int, int]) -> Indices:
    """Return pixels down, pixels to the right and whether to mirror, for each image of a step."""
    chance, shift = np.random.default_rng(seed), augmentation.shift
    moves = chance.integers(-shift, shift + 1, size=(count, 2))
    mirrored = chance.integers(0, 2, size=(count, 1)) * augmentation.flip
    return np.concatenate((moves, mirrored), axis=1)


def augmented(images: Bytes, changes: Indices) -> Bytes:
    """Return images (number, height, width, channels) moved and mirrored; edges are repeated.

    Args:
        images: as they are.
        changes: pixels down, pixels to the right and 1 to mirror, a row an image.
    """
    if not changes.any():
        return images
    number, height, width, _ = images.shape
    down, right, mirrored = changes[:, :1], changes[:, 1:2], changes[:, 2:] > 0
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    columns = np.where(mirrored, columns[:, ::-1], columns)
    changed: Bytes = images[np.arange(number)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return changed
