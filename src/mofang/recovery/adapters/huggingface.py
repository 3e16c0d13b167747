"""Snapshots and resume for the Hugging Face ``Trainer``.

>>> attach(trainer, tiers=[Memory(), Directory("ckpt", every="10m")])
>>> trainer.train()  # goes on where the last start was killed

The trainer's own ``save_strategy`` may be ``"no"``. What is kept: model, optimizer, scheduler, random states and the
trainer's state; the position in the data follows from the number of steps, as in the trainer's own resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from transformers import Trainer, TrainerCallback

from mofang.recovery.checkpointer import Checkpointer
from mofang.recovery.tiers import Directory, Memory

__all__ = ["attach"]

_OF_THIS_START = ("max_steps", "num_train_epochs", "logging_steps", "eval_steps", "save_steps", "train_batch_size")
_MARK = "mofang"  # stands for the path of a checkpoint, which the trainer only passes on


class _Progress:
    """The trainer's own state, alike on every rank."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        trainer, loss = self._trainer, float(self._trainer._tr_loss)
        logged = trainer._globalstep_last_logged
        if trainer.control.should_log:  # this step's line is written right after the snapshot
            loss, logged = 0.0, trainer.state.global_step
        return {"state": asdict(trainer.state), "loss": loss, "logged": logged}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        trainer = self._trainer
        for name, value in saved["state"].items():
            if name not in _OF_THIS_START:
                setattr(trainer.state, name, value)
        trainer._tr_loss = torch.tensor(saved["loss"], device=trainer.args.device)
        trainer._globalstep_last_logged = saved["logged"]
        trainer._initial_global_step = trainer.state.global_step


class _Callback(TrainerCallback):
    """Restores when training begins, and notes every step."""

    def __init__(self, trainer: Trainer, tiers: Sequence[Memory | Directory]) -> None:
        self._trainer, self._tiers = trainer, tiers
        self.checkpointer: Checkpointer | None = None
        self.start = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the newest state back."""
        optimizer, scheduler = kwargs["optimizer"], kwargs["lr_scheduler"]
        objects = {
            "model": kwargs["model"],
            "optimizer": getattr(optimizer, "optimizer", optimizer),  # inside accelerate's
            "schedule": getattr(scheduler, "scheduler", scheduler),
            "trainer": _Progress(self._trainer),
        }
        self.checkpointer = Checkpointer(objects, self._tiers)
        self.start = self.checkpointer.restore()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Snapshot or save if it is time."""
        if self.checkpointer is not None:
            self.checkpointer.step(state.global_step - 1)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the last state durable."""
        if self.checkpointer is not None:
            self.checkpointer.close()


def attach(trainer: Trainer, tiers: Sequence[Memory | Directory]) -> None:
    """Let a trainer snapshot its state and go on from the newest one; call it before ``train()``.

    The trainer works out where to begin before it has a model to restore into. So its pass over one epoch is wrapped:
    epochs that are done are left out, and the one that was cut short skips the batches that were seen.

    Args:
        trainer: of transformers 5.
        tiers: where state is kept.
    """
    callback, inner = _Callback(trainer, tiers), cast("Any", trainer)
    inner.add_callback(callback)
    run_epoch = inner._run_epoch

    def resumed(*, epoch: int, num_update_steps_per_epoch: int, **options: Any) -> None:
        first, done = divmod(callback.start, num_update_steps_per_epoch)
        if epoch < first:
            return
        if callback.start and epoch == first:
            options |= {
                "resume_from_checkpoint": _MARK,
                "epochs_trained": epoch,
                "steps_trained_in_current_epoch": done * trainer.args.gradient_accumulation_steps,
            }
        run_epoch(epoch=epoch, num_update_steps_per_epoch=num_update_steps_per_epoch, **options)

    def load_randomness(path: str | None) -> None:
        if path == _MARK and callback.checkpointer is not None:
            callback.checkpointer.restore_randomness()

    inner._run_epoch = resumed
    inner._load_rng_state = load_randomness
