"""The training loop."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mofang.domain.events import EventKind
from mofang.domain.recipe import TrainingConfig
from mofang.errors import JobFailedError
from mofang.recipes.training.batch import Batches
from mofang.recipes.training.group import peak_memory
from mofang.recipes.training.keeper import keeper_of
from mofang.recipes.training.optimiser import AdamW, clip, learning_rate
from mofang.recipes.training.parallel import Built
from mofang.recipes.training.run import Run
from mofang.recipes.training.schedule import Schedule

__all__ = ["STOPPED", "Examination", "Trainer", "train"]

STOPPED = 128 + signal.SIGTERM  # the exit code of a worker that saved and left when asked to


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What a validation measures beside the loss: ``measure`` returns the means of a batch, loss first, then these."""

    names: tuple[str, ...]
    measure: Callable[..., Tensor]


@dataclass(slots=True)
class _Progress:
    """What has been done, over all generations."""

    step: int = 0
    seconds: float = 0.0  # in steps
    loss: float = math.nan
    validation_loss: float | None = None
    validation: dict[str, float] = field(default_factory=dict)  # what else the last one measured


@dataclass(slots=True)
class _Stop:
    """Whether this rank was asked to stop; apart from the trainer, which the signal's handler must not keep alive."""

    asked: bool = False

    def ask(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True


class Trainer:
    """One rank's training, from wherever the last checkpoint left it to the last step."""

    def __init__(
        self,
        run: Run[TrainingConfig],
        schedule: Schedule,
        built: Built[nn.Module],
        batches: Batches,
        examination: Examination | None = None,
    ) -> None:
        self._schedule, self._batches = schedule, batches
        self._worker, self._reporter, self._clock, self._device = run.worker, run.reporter, run.clock, run.device
        self._model, self._layout = built.model, built.layout
        self._optimiser = AdamW(self._layout.parts, schedule.optimisation)
        self._keeper = keeper_of(run, self._layout.parts, self._optimiser)
        self._examination = examination or Examination(names=(), measure=self._model)
        self._progress = _Progress()
        self._unlogged: list[float] = []
        self._stop = _Stop()

    def resume(self) -> bool:
        """Go on from the last checkpoint; return whether there was one."""
        loaded = self._keeper.load() if self._keeper else None
        if loaded is None:
            return False
        self._progress = _Progress(
            step=loaded.step,
            seconds=float(loaded.scalars["seconds"]),
            loss=float(loaded.scalars["loss"]),
            validation_loss=loaded.scalars["validation_loss"],
            validation=dict(loaded.scalars.get("validation", {})),
        )
        return True

    def run(self) -> None:
        """Train to the last step, then validate and report.

        Raises:
            JobFailedError: the loss is not finite any more.
            SystemExit: with code 143 after SIGTERM, once the state is saved.
        """
        previous = signal.signal(signal.SIGTERM, self._stop.ask)
        self._reporter.phase("train", self._progress.step, self._schedule.steps)
        while self._progress.step < self._schedule.steps:
            self._fault()
            self._step()
        signal.signal(signal.SIGTERM, previous)
        if self._schedule.validate_every and not self._validated_now():
            self._validate()
        progress = self._progress
        self._reporter.tell(
            EventKind.RESULT,
            steps=progress.step,
            loss=progress.loss,
            validation_loss=progress.validation_loss,
            **{f"validation_{name}": value for name, value in progress.validation.items()},
            seconds=progress.seconds,
            tokens=progress.step * self._schedule.tokens,
            params=self._schedule.params,
        )

    def _fault(self) -> None:
        """Die where the demonstration wants it, once."""
        done = self._progress.step
        if self._worker.generation != 1 or done != self._schedule.fault_step:
            return
        if self._worker.rank == self._worker.world_size - 1:
            self._reporter.report(EventKind.FAULT_INJECTED, step=done, rank=self._worker.rank, what="SIGKILL")
            os.kill(os.getpid(), signal.SIGKILL)

    def _step(self) -> None:
        started = self._clock.monotonic()
        rate = learning_rate(self._schedule.optimisation, self._progress.step, self._schedule.steps)
        loss, norm = self._update(rate)
        logged = self._is_logged(self._progress.step + 1)
        mean, stop = self._agree(loss.item() if logged else 0.0)
        self._unlogged.append(self._clock.monotonic() - started)
        self._progress.step += 1
        self._progress.seconds += self._unlogged[-1]
        self._worker.heartbeat(self._progress.step)
        if logged:
            self._log(mean, rate, norm.item())
        self._milestones(stop)

    def _update(self, rate: float) -> tuple[Tensor, Tensor]:
        """Run one optimiser step; return this rank's mean loss and the norm of the gradients before clipping."""
        accumulation = self._schedule.accumulation
        self._layout.clear()
        total = torch.zeros((), device=self._device)
        for index, batch in enumerate(self._batches.train(self._progress.step)):
            self._layout.expect(index == accumulation - 1)
            loss = self._model(*batch.inputs)
            (loss * (self._layout.loss_scale * batch.weight / accumulation)).backward()
            total += loss.detach() * batch.weight
        gradients = self._layout.gradients()
        norm = self._layout.norm()
        if self._schedule.optimisation.clip_norm > 0:
            clip(list(gradients.values()), norm, self._schedule.optimisation.clip_norm)
        self._optimiser.step(gradients, rate)
        return total / accumulation, norm

    def _agree(self, loss: float) -> tuple[float, bool]:
        """Return the mean loss over ranks, and whether any rank was asked to stop."""
        if self._worker.world_size == 1:
            return loss, self._stop.asked
        both = torch.tensor([loss, float(self._stop.asked)], dtype=torch.float64)
        distributed.all_reduce(both)
        total, stops = both.tolist()
        return total / self._worker.world_size, stops > 0

    def _is_logged(self, step: int) -> bool:
        return step % max(1, self._schedule.log_every) == 0 or step == self._schedule.steps

    def _log(self, loss: float, rate: float, norm: float) -> None:
        step_time = sum(self._unlogged) / len(self._unlogged)
        self._unlogged.clear()
        self._progress.loss = loss
        counted = self._schedule.flops and self._schedule.peak_flops
        self._reporter.tell(
            EventKind.STEP,
            step=self._progress.step,
            loss=loss,
            lr=rate,
            grad_norm=norm,
            step_time_s=step_time,
            tokens_per_s=self._schedule.tokens / step_time,
            mfu=self._schedule.flops / step_time / self._schedule.peak_flops if counted else None,
            memory_bytes=peak_memory(self._device),
        )
        if not math.isfinite(loss):
            raise JobFailedError(f"the loss of step {self._progress.step} is {loss}", hint="lower the learning rate")

    def _milestones(self, stop: bool) -> None:
        """Validate and save where it is due. Saving comes last, so a resumed run repeats nothing it has reported."""
        step = self._progress.step
        last, every = step == self._schedule.steps, self._schedule.save_every
        if self._validated_now() and not stop:
            self._validate()
        if self._keeper and (last or stop or (every and step % every == 0)):
            self._keeper.save(step, self._scalars())
        if stop and not last:
            raise SystemExit(STOPPED)

    def _validated_now(self) -> bool:
        every = self._schedule.validate_every
        return bool(every) and self._progress.step % every == 0

    def _scalars(self) -> dict[str, Any]:
        """Return the JSON values of the state; the schedule and the data's order follow from step and seed."""
        progress = self._progress
        return {
            "step": progress.step,
            "steps": self._schedule.steps,
            "seed": self._schedule.seed,
            "position": progress.step * self._schedule.global_batch,
            "lr": learning_rate(self._schedule.optimisation, progress.step, self._schedule.steps),
            "seconds": progress.seconds,
            "loss": progress.loss,
            "validation_loss": progress.validation_loss,
            "validation": progress.validation,
        }

    @torch.no_grad()
    def _validate(self) -> None:
        """Report the means over the same data every time, whatever the layout."""
        self._reporter.phase("validate", self._progress.step, self._schedule.steps)
        names = ("loss", *self._examination.names)
        sums = torch.zeros(1 + len(names), dtype=torch.float64, device=self._device)
        self._model.eval()
        for batch in self._batches.validation():
            measured = self._examination.measure(*batch.inputs).reshape(-1).double()
            sums += torch.cat((measured, torch.ones_like(measured[:1]))) * batch.weight
        self._model.train()
        totals = sums.cpu()
        if self._worker.world_size > 1:
            distributed.all_reduce(totals)
        *values, count = totals.tolist()
        if count:
            means = {name: value / count for name, value in zip(names, values, strict=True)}
            self._reporter.tell(EventKind.VALIDATION, step=self._progress.step, **means)
            self._progress.validation_loss = means.pop("loss")
            self._progress.validation = means
        if self._progress.step < self._schedule.steps:
            self._reporter.phase("train", self._progress.step, self._schedule.steps)


def train(
    run: Run[TrainingConfig],
    schedule: Schedule,
    built: Built[nn.Module],
    batches: Batches,
    *,
    start: Callable[[], None],
    examination: Examination | None = None,
) -> None:
    """Train a model to the last step: from the last checkpoint, or from the values that ``start`` gives it.

    Raises:
        CheckpointError: a checkpoint is there and none can be used.
        JobFailedError: the loss is not finite any more.
        SystemExit: with code 143 after SIGTERM, once the state is saved.
    """
    trainer = Trainer(run, schedule, built, batches, examination)
    run.reporter.phase("load")
    if not trainer.resume():
        start()
    trainer.run()
