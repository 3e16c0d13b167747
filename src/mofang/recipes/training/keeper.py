"""When and what the run saves, and from where it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.recipe import TrainingConfig
from mofang.errors import CheckpointError
from mofang.recipes.training.optimiser import AdamW
from mofang.recipes.training.reporter import Reporter
from mofang.recipes.training.run import Run
from mofang.recovery.checkpoint.load import Loaded, load_checkpoint
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.randomness import random_states, restore_random_states
from mofang.recovery.checkpoint.save import save_checkpoint
from mofang.recovery.checkpoint.state import Part, TrainingState

__all__ = ["Keeper", "keeper_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """Saves and loads the state of one run."""

    directory: Path
    keep: int
    parameters: Mapping[str, Part]
    optimiser: AdamW
    peers: Peers
    reporter: Reporter
    clock: Clock

    def _parts(self) -> dict[str, Part]:
        weights = {f"model/{name}": part for name, part in self.parameters.items()}
        return weights | {f"optimiser/{name}": part for name, part in self.optimiser.state().items()}

    def save(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Save after ``step`` steps; a failure is reported and training goes on."""
        state = TrainingState(step=step, parts=self._parts(), private=random_states(), scalars=scalars)
        try:
            saved = save_checkpoint(self.directory, state, keep=self.keep, peers=self.peers, clock=self.clock)
        except CheckpointError as error:
            self.reporter.tell(EventKind.CHECKPOINT_FAILED, step=step, message=error.message)
        else:
            self.reporter.tell(EventKind.CHECKPOINT_SAVED, step=step, bytes=saved.bytes, seconds=saved.seconds)

    def load(self) -> Loaded | None:
        """Put the newest usable checkpoint in place; None where there is none."""
        private = random_states()
        state = TrainingState(step=0, parts=self._parts(), private=private)
        loaded = load_checkpoint(
            self.directory, state, peers=self.peers, clock=self.clock, on_refused=self.reporter.refused
        )
        if loaded is not None:
            restore_random_states(private)
            self.optimiser.resume(loaded.step)
            self.reporter.tell(
                EventKind.CHECKPOINT_LOADED, step=loaded.step, seconds=loaded.seconds, path=str(loaded.path)
            )
        return loaded


def keeper_of(run: Run[TrainingConfig], parameters: Mapping[str, Part], optimiser: AdamW) -> Keeper | None:
    """Return what saves a run, or None where nothing of it is kept."""
    if run.worker.checkpoint_dir is None or not run.config.saves:
        return None
    return Keeper(
        directory=run.worker.checkpoint_dir,
        keep=run.config.task.keep_checkpoints,
        parameters=parameters,
        optimiser=optimiser,
        peers=Peers(),
        reporter=run.reporter,
        clock=run.clock,
    )
