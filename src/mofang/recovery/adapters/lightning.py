"""Snapshots and resume for the Lightning ``Trainer``.

>>> trainer = Trainer(callbacks=[MofangCallback(tiers=[Memory(), Directory("ckpt", every="10m")])])
>>> trainer.fit(model, loader)  # goes on where the last start was killed

Kept are the module, its optimizers and schedulers, random states and the progress of Lightning's loops. The position
inside an epoch is kept by the data loader: use ``torchdata``'s ``StatefulDataLoader``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mofang.recovery.checkpointer import Checkpointer
from mofang.recovery.collect import PerRank
from mofang.recovery.tiers import Directory, Memory

__all__ = ["MofangCallback"]


class _Loops:
    """How far Lightning's loops and the data loaders in them have come, on this rank."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self._trainer.fit_loop.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._trainer.fit_loop.load_state_dict(dict(state))


class MofangCallback(Callback):  # type: ignore[misc]
    """Restores when the fit begins, and notes every optimiser step.

    Args:
        tiers: where state is kept.
    """

    def __init__(self, tiers: Sequence[Memory | Directory]) -> None:
        self._tiers = tiers
        self._checkpointer: Checkpointer | None = None
        self._done = 0
        self._resumed = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the newest state back."""
        state: dict[str, Any] = {"model": pl_module, "loops": PerRank(_Loops(trainer))}
        state |= {f"optimizer{index}": optimizer for index, optimizer in enumerate(trainer.optimizers)}
        state |= {f"schedule{index}": each.scheduler for index, each in enumerate(trainer.lr_scheduler_configs)}
        self._checkpointer = Checkpointer(state, self._tiers)
        self._done = self._checkpointer.restore()
        self._resumed = self._done > 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """In mid-epoch, put the random generators back: making the iterators once more has drawn from them."""
        if self._resumed and self._checkpointer is not None:
            self._resumed = False
            if batch_idx:
                self._checkpointer.restore_randomness()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch with the random generators as they were saved at the end of the last one."""
        if self._resumed and self._checkpointer is not None:
            self._checkpointer.restore_randomness()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Snapshot or save if it is time; batches whose gradients are only gathered are no steps."""
        if self._checkpointer is not None and trainer.global_step > self._done:
            self._done = trainer.global_step
            self._checkpointer.step(self._done - 1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the last state durable."""
        if self._checkpointer is not None:
            self._checkpointer.close()
