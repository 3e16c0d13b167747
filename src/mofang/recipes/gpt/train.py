"""The training loop."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import dataclass
from types import FrameType

import torch
from torch import Tensor, distributed

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.recipe import GptConfig
from mofang.errors import JobFailedError
from mofang.recipes.gpt.batches import Batches
from mofang.recipes.gpt.build import Built
from mofang.recipes.gpt.group import peak_memory
from mofang.recipes.gpt.keeper import Keeper
from mofang.recipes.gpt.optimiser import AdamW, clip, learning_rate
from mofang.recipes.gpt.reporter import Reporter
from mofang.recovery.worker import Worker

__all__ = ["STOPPED", "Trainer"]

STOPPED = 128 + signal.SIGTERM  # the exit code of a worker that saved and left when asked to


@dataclass(slots=True)
class _Progress:
    """What has been done, over all generations."""

    step: int = 0
    seconds: float = 0.0  # in steps
    loss: float = math.nan
    validation_loss: float | None = None


class Trainer:
    """One rank's training, from wherever the last checkpoint left it to the last step."""

    def __init__(
        self,
        config: GptConfig,
        built: Built,
        *,
        optimiser: AdamW,
        batches: Batches,
        keeper: Keeper | None,
        worker: Worker,
        reporter: Reporter,
        clock: Clock,
        device: torch.device,
    ) -> None:
        self._config, self._task = config, config.task
        self._model, self._layout = built.model, built.layout
        self._optimiser, self._batches, self._keeper = optimiser, batches, keeper
        self._worker, self._reporter, self._clock, self._device = worker, reporter, clock, device
        self._progress = _Progress()
        self._unlogged: list[float] = []
        self._stop_asked = False

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
        )
        return True

    def run(self) -> None:
        """Train to the last step, then validate and report.

        Raises:
            JobFailedError: the loss is not finite any more.
            SystemExit: with code 143 after SIGTERM, once the state is saved.
        """
        previous = signal.signal(signal.SIGTERM, self._ask_stop)
        self._reporter.phase("train", self._progress.step, self._config.steps)
        while self._progress.step < self._config.steps:
            self._fault()
            self._step()
        signal.signal(signal.SIGTERM, previous)
        if self._task.validate_every and not self._validated_now():
            self._validate()
        progress = self._progress
        self._reporter.tell(
            EventKind.RESULT,
            steps=progress.step,
            loss=progress.loss,
            validation_loss=progress.validation_loss,
            seconds=progress.seconds,
            tokens=progress.step * self._task.global_batch * self._task.sequence,
            params=self._task.model.params,
        )

    def _ask_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop_asked = True

    def _fault(self) -> None:
        """Die where the demonstration wants it, once."""
        done = self._progress.step
        if self._worker.generation != 1 or done != self._config.fault_step:
            return
        if self._worker.rank == self._worker.world_size - 1:
            self._reporter.report(EventKind.FAULT_INJECTED, step=done, rank=self._worker.rank, what="SIGKILL")
            os.kill(os.getpid(), signal.SIGKILL)

    def _step(self) -> None:
        started = self._clock.monotonic()
        rate = learning_rate(self._task.optimisation, self._progress.step, self._config.steps)
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
        accumulation = self._config.strategy.accumulation
        self._layout.clear()
        total = torch.zeros((), device=self._device)
        for index, (tokens, targets) in enumerate(self._batches.train(self._progress.step)):
            self._layout.expect(index == accumulation - 1)
            loss = self._model(tokens, targets)
            (loss * (self._layout.loss_scale / accumulation)).backward()
            total += loss.detach()
        gradients = self._layout.gradients()
        norm = self._layout.norm()
        if self._task.optimisation.clip_norm > 0:
            clip(list(gradients.values()), norm, self._task.optimisation.clip_norm)
        self._optimiser.step(gradients, rate)
        return total / accumulation, norm

    def _agree(self, loss: float) -> tuple[float, bool]:
        """Return the mean loss over ranks, and whether any rank was asked to stop."""
        if self._worker.world_size == 1:
            return loss, self._stop_asked
        both = torch.tensor([loss, float(self._stop_asked)], dtype=torch.float64)
        distributed.all_reduce(both)
        total, stops = both.tolist()
        return total / self._worker.world_size, stops > 0

    def _is_logged(self, step: int) -> bool:
        return step % max(1, self._task.log_every) == 0 or step == self._config.steps

    def _log(self, loss: float, rate: float, norm: float) -> None:
        step_time = sum(self._unlogged) / len(self._unlogged)
        self._unlogged.clear()
        self._progress.loss = loss
        tokens_per_s = self._task.global_batch * self._task.sequence / step_time
        flops = tokens_per_s * self._task.model.train_flops_per_token(self._task.sequence)
        self._reporter.tell(
            EventKind.STEP,
            step=self._progress.step,
            loss=loss,
            lr=rate,
            grad_norm=norm,
            step_time_s=step_time,
            tokens_per_s=tokens_per_s,
            mfu=flops / self._config.peak_flops if self._config.peak_flops else None,
            memory_bytes=peak_memory(self._device),
        )
        if not math.isfinite(loss):
            raise JobFailedError(f"the loss of step {self._progress.step} is {loss}", hint="lower the learning rate")

    def _milestones(self, stop: bool) -> None:
        """Validate and save where it is due. Saving comes last, so a resumed run repeats nothing it has reported."""
        step = self._progress.step
        last = step == self._config.steps
        if self._validated_now() and not stop:
            self._validate()
        if self._keeper and (last or stop or (self._config.save_every and step % self._config.save_every == 0)):
            self._keeper.save(step, self._scalars())
        if stop and not last:
            raise SystemExit(STOPPED)

    def _validated_now(self) -> bool:
        every = self._task.validate_every
        return bool(every) and self._progress.step % every == 0

    def _scalars(self) -> dict[str, float | int | None]:
        """Return the JSON values of the state; the schedule and the data's order follow from step and seed."""
        progress = self._progress
        return {
            "step": progress.step,
            "steps": self._config.steps,
            "seed": self._task.seed,
            "position": progress.step * self._task.global_batch,
            "lr": learning_rate(self._task.optimisation, progress.step, self._config.steps),
            "seconds": progress.seconds,
            "loss": progress.loss,
            "validation_loss": progress.validation_loss,
        }

    @torch.no_grad()
    def _validate(self) -> None:
        """Report the mean loss over the same windows every time, whatever the layout."""
        self._reporter.phase("validate", self._progress.step, self._config.steps)
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        for tokens, targets, windows in self._batches.validation(
            self._task.validation_batches * self._task.global_batch
        ):
            loss = self._model(tokens, targets)
            sums += torch.stack((loss.double() * windows, torch.full_like(loss, windows).double()))
        totals = sums.cpu()
        if self._worker.world_size > 1:
            distributed.all_reduce(totals)
        loss_sum, count = totals.tolist()
        if count:
            self._progress.validation_loss = loss_sum / count
            self._reporter.tell(EventKind.VALIDATION, step=self._progress.step, loss=loss_sum / count)
        if self._progress.step < self._config.steps:
            self._reporter.phase("train", self._progress.step, self._config.steps)
