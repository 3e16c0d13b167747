"""What every part of one worker's run uses, from its configuration to a process group."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from mofang.clock import Clock
from mofang.domain.recipe import TrainingConfig
from mofang.errors import SpecError
from mofang.recipes.training.cache import Progress
from mofang.recipes.training.group import Gate, choose_device, first_then_all, joined
from mofang.recipes.training.reporter import Reporter
from mofang.recipes.training.share import Share
from mofang.recovery.allocator import keep_freed_memory
from mofang.recovery.worker import Worker

__all__ = ["Prepare", "Run", "begin"]

C_co = TypeVar("C_co", bound=TrainingConfig, covariant=True)
C = TypeVar("C", bound=TrainingConfig)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Prepare(Protocol[T_co]):
    """Builds a recipe's data in a folder, or finds it there."""

    def __call__(self, directory: Path, *, record: Path | None, progress: Progress) -> T_co:
        """Return the data; ``record`` is the file that remembers what the job trains on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Generic[C_co]):
    """One worker's run."""

    config: C_co
    worker: Worker
    reporter: Reporter
    clock: Clock
    device: torch.device
    share: Share

    def data(self, store: Store, prepare: Prepare[T]) -> T:
        """Let rank 0 build the data; then the others find it, without a look at its sources.

        Raises:
            MofangError: it cannot be built; on the others, ``JobFailedError`` with rank 0's words.
        """
        folder, kept = self.worker.data_dir, self.worker.checkpoint_dir
        self.reporter.phase("data")
        return first_then_all(
            Gate(store, self.worker, self.clock, "data"),
            self.worker,
            lambda: prepare(
                folder or Path(tempfile.gettempdir()) / "mofang-data",
                record=kept / "data.json" if kept else None,
                progress=self.reporter.building,
            ),
        )

    def joined(self, store: Store) -> AbstractContextManager[None]:
        """Be joined with the other workers meanwhile."""
        return joined(self.config.strategy.sharding, self.worker, store, self.device)


def begin(config: C, worker: Worker, clock: Clock) -> Run[C]:
    """Set this process up for its part of the plan.

    Raises:
        SpecError: there are more workers than the plan is for; fewer share the same work.
        BackendError: the plan wants a GPU and torch sees none.
    """
    wanted = config.strategy.parallelism.world_size
    if worker.world_size > wanted:
        raise SpecError(f"the plan is for {wanted} workers, not {worker.world_size}")
    keep_freed_memory()
    return Run(
        config=config,
        worker=worker,
        reporter=Reporter(worker, clock),
        clock=clock,
        device=choose_device(config.device, worker, threads=config.strategy.threads),
        share=Share(
            rank=worker.rank,
            world_size=worker.world_size,
            micro_batch=config.strategy.micro_batch,
            global_batch=config.task.global_batch,
        ),
    )
