"""The training loop."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mofang.domain.events import EventKind
from mofang.domain.recipe import TrainingConfig
from mofang.errors import NotFiniteError
from mofang.recipes.training.batch import Batches
from mofang.recipes.training.busy import BusyTime
from mofang.recipes.training.compare import Comparison
from mofang.recipes.training.group import peak_memory
from mofang.recipes.training.keeper import NO_VOTES, Saving, keeper_of
from mofang.recipes.training.optimiser import AdamW, clip, learning_rate
from mofang.recipes.training.parallel import Built
from mofang.recipes.training.run import Run
from mofang.recipes.training.schedule import Schedule
from mofang.recipes.training.trouble import Back, Watch
from mofang.recovery.checkpoint.load import Loaded
from mofang.recovery.guard import Skips
from mofang.recovery.heartbeat import SYNC, TRAIN

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
        self._busy = BusyTime(run.clock, run.device)
        self._watch = Watch(
            policy=run.config.task.loss_policy,
            reporter=run.reporter,
            comparison=Comparison(parts=self._layout.parts, worker=run.worker, clock=run.clock),
            rank=run.worker.rank,
        )
        self._whole = all(part.replicated for part in self._layout.parts.values())
        self._work = run.share.global_batch / (run.share.world_size * max(1, run.share.size))  # a mean share by its own
        self._step_s = 0.0
        self._busy_s: float | None = None
        self._unlogged: list[float] = []
        self._stop = _Stop()

    def resume(self) -> bool:
        """Go on from the last checkpoint; return whether there was one."""
        loaded = self._keeper.load() if self._keeper else None
        if loaded is None:
            return False
        self._go_on_from(loaded)
        self._watch.skips = Skips(loaded.scalars.get("skipped", ()))
        return True

    def _go_on_from(self, loaded: Loaded) -> None:
        self._progress = _Progress(
            step=loaded.step,
            seconds=float(loaded.scalars["seconds"]),
            loss=float(loaded.scalars["loss"]),
            validation_loss=loaded.scalars["validation_loss"],
            validation=dict(loaded.scalars.get("validation", {})),
        )

    def run(self) -> None:
        """Train to the last step, then validate and report.

        Raises:
            NotFiniteError: the loss is not finite any more.
            SilentCorruptionError: the weights of this rank are not those of the others, again.
            SystemExit: with code 143 after SIGTERM, once the state is saved.
        """
        self._watch.begin(self._progress.step)
        previous = signal.signal(signal.SIGTERM, self._stop.ask)
        self._reporter.phase("train", self._progress.step, self._schedule.steps)
        with closing(self._keeper) if self._keeper else nullcontext():
            if self._keeper:
                self._keeper.start(self._progress.step, self._scalars())
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
        # Elsewhere a look at the values would wait for the device; a state that is kept must be known to be sound.
        pending = self._keeper is not None and self._keeper.pending
        known = logged or pending or self._device.type == "cpu" or self._is_saved(self._progress.step + 1)
        mean, size, stop, votes = self._agree((loss.item(), norm.item()) if known else (0.0, 0.0))
        if known and (back := self._watch.loss(self._progress.step, mean, size)) is not None:
            self._go_back(back)
            return
        self._unlogged.append(self._clock.monotonic() - started)
        self._progress.step += 1
        self._step_s = self._unlogged[-1]
        self._progress.seconds += self._step_s
        self._worker.heartbeat(self._progress.step, TRAIN, self._busy_s)
        if logged:
            self._log(mean, rate, size)
        self._milestones(stop, votes)

    def _update(self, rate: float) -> tuple[Tensor, Tensor]:
        """Run one optimiser step; return this rank's mean loss and the norm of the gradients before clipping."""
        accumulation = self._schedule.accumulation
        self._layout.clear()
        self._busy.start()
        total = torch.zeros((), device=self._device)
        for index, batch in enumerate(self._batches.train(self._watch.skips.index(self._progress.step))):
            self._layout.expect(index == accumulation - 1)
            loss = self._model(*batch.inputs)
            (loss * (self._layout.loss_scale * batch.weight / accumulation)).backward()
            total += loss.detach() * batch.weight
        self._beat_before_waiting()
        gradients = self._layout.gradients()
        norm = self._layout.norm()
        if self._schedule.optimisation.clip_norm > 0:
            clip(list(gradients.values()), norm, self._schedule.optimisation.clip_norm)
        if self._keeper:
            self._keeper.before_update()
        self._optimiser.step(gradients, rate)
        return total / accumulation, norm

    def _agree(self, own: tuple[float, float]) -> tuple[float, float, bool, Sequence[float]]:
        """Return the means over ranks of loss and gradient norm, whether any is to stop, the votes on a snapshot."""
        step = self._progress.step + 1
        ballot = self._keeper.ballot(step, self._is_saved(step)) if self._keeper else NO_VOTES
        if self._worker.world_size == 1:
            return *own, self._stop.asked, ballot
        sums = torch.tensor([*own, float(self._stop.asked), *ballot], dtype=torch.float64)
        distributed.all_reduce(sums)
        loss, norm, stops, *votes = sums.tolist()
        return loss / self._worker.world_size, norm / self._worker.world_size, stops > 0, votes

    def _go_back(self, back: Back) -> None:
        """Put an earlier state in place and leave out the data that led here.

        Raises:
            NotFiniteError: no such state was kept.
        """
        left_out = self._watch.skips.leave_out(back.step, back.count) if back.count else []
        loaded = self._keeper.load(at_most=back.at_most) if self._keeper else None
        if loaded is None:
            raise NotFiniteError(f"{back.why}, and no earlier state is there", hint="lower the learning rate")
        self._go_on_from(loaded)
        self._unlogged.clear()
        self._watch.begin(loaded.step)
        self._reporter.tell(EventKind.ROLLED_BACK, step=back.step + 1, to=loaded.step, why=back.why, skipped=left_out)

    def _beat_before_waiting(self) -> None:
        """From here this rank waits for others, except where weights are cut: there it has waited all along."""
        busy = self._busy.stop()
        if self._worker.world_size > 1 and self._whole:
            self._busy_s = None if busy is None else busy * self._work
            self._worker.heartbeat(self._progress.step, SYNC, self._busy_s)

    def _is_logged(self, step: int) -> bool:
        return step % max(1, self._schedule.log_every) == 0 or step == self._schedule.steps

    def _is_saved(self, step: int) -> bool:
        every = self._schedule.save_every
        return self._keeper is not None and (step == self._schedule.steps or (every > 0 and step % every == 0))

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

    def _milestones(self, stop: bool, votes: Sequence[float]) -> None:
        """Validate and save where it is due. Saving comes last, so a resumed run repeats nothing it has reported."""
        step = self._progress.step
        last = step == self._schedule.steps
        saving = Saving.NO
        if self._keeper:
            saving = self._keeper.plan(votes, due=self._is_saved(step), last=stop or last)
        # What is saved must be sound, so the weights are compared before it.
        compared = saving is not Saving.NO or self._watch.comparison.due(step)
        if compared and (back := self._compare()) is not None:
            self._go_back(back)
            return
        if self._validated_now() and not stop:
            self._validate()
        if self._keeper:
            self._keeper.snapshot(step, self._scalars, votes, saving)
        if self._keeper and saving is Saving.NOW:
            self._worker.heartbeat(step, "save")
            self._keeper.save(step, self._scalars())
            self._worker.heartbeat(step, TRAIN)
        if stop and not last:
            raise SystemExit(STOPPED)

    def _compare(self) -> Back | None:
        self._watch.comparison.step_s = self._step_s
        return self._watch.weights(self._progress.step)

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
            "position": self._watch.skips.index(progress.step) * self._schedule.global_batch,
            "skipped": self._watch.skips.left_out,
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
            self._worker.heartbeat(self._progress.step, "validate")
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
        self._worker.heartbeat(self._progress.step, TRAIN)
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
        NotFiniteError: the loss is not finite any more.
        SystemExit: with code 143 after SIGTERM, once the state is saved.
    """
    trainer = Trainer(run, schedule, built, batches, examination)
    run.reporter.phase("load")
    if not trainer.resume():
        start()
    trainer.run()
