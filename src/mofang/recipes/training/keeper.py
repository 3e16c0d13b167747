"""When and what the run saves, and from where it goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.recipe import TrainingConfig
from mofang.errors import CheckpointError
from mofang.recipes.training.optimiser import AdamW
from mofang.recipes.training.reporter import Reporter
from mofang.recipes.training.run import Run
from mofang.recipes.training.snapshots import VOTES, Snapshots
from mofang.recovery.advice import AdviceReader
from mofang.recovery.checkpoint import files
from mofang.recovery.checkpoint.load import Loaded, load_checkpoint
from mofang.recovery.checkpoint.parts import Share
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.randomness import random_states, restore_random_states
from mofang.recovery.checkpoint.state import Part, TrainingState
from mofang.recovery.durable import Durable
from mofang.recovery.neighbours import copies_of_attempt
from mofang.recovery.replica.client import replicas_of_attempt
from mofang.recovery.snapshot.memory import generation_fence
from mofang.recovery.snapshot.place import Place
from mofang.recovery.snapshot.restore import restore

__all__ = ["NO_VOTES", "Keeper", "Saving", "keeper_of"]

_BUSY, _OFF = VOTES, VOTES + 1  # where in the votes it says that a save is under way, that a rank has no snapshots
NO_VOTES = (1.0,) + (0.0,) * _OFF  # of a rank that takes no snapshots
_CLOSE_S = 2.0  # the last state was saved while training waited; after an error others may never commit


class Saving(Enum):
    """How the state after a step is made durable."""

    NO = "no"
    BACKGROUND = "background"  # from a snapshot in memory; training goes on
    NOW = "now"  # training waits


@dataclass(slots=True, kw_only=True)
class Keeper:
    """Saves and loads the state of one run: in memory where there are snapshots, and on the disk.

    With snapshots, a checkpoint that is due is a snapshot that is wanted, and is written in the background. One that
    comes due while the one before is still being written waits for it, on all ranks alike.
    """

    durable: Durable
    parameters: Mapping[str, Part]
    optimiser: AdamW
    peers: Peers
    reporter: Reporter
    clock: Clock
    snapshots: Snapshots | None = None
    pending: bool = False  # whether a checkpoint has come due and is not begun yet; alike on all ranks

    def start(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Get ready for snapshots, once it is known from which step training goes on."""
        if self.snapshots is not None:
            self.snapshots.start(self._state(step, scalars))

    def ballot(self, step: int, due: bool) -> Sequence[float]:
        """Return what is to be added up over ranks before ``plan``; ``due``: as at a checkpoint's interval."""
        self.tell_outcomes()
        if self.snapshots is None:
            return NO_VOTES
        votes = self.snapshots.ballot(step, due or self.pending)
        return (*votes, float(self.durable.busy), float(bool(self.snapshots.tier.problem)))

    def plan(self, votes: Sequence[float], *, due: bool, last: bool) -> Saving:
        """Return how the present state is to be saved; the same on every rank.

        Args:
            votes: the sum of the ballots of all ranks.
            due: whether it is time for a checkpoint.
            last: whether no step follows: then it must be durable before the program ends.
        """
        self.pending |= due
        if last or (self.pending and (self.snapshots is None or votes[_OFF] > 0)):
            return Saving.NOW
        if not self.pending or self.snapshots is None or votes[_BUSY] or self.snapshots.turn(votes) is None:
            return Saving.NO
        return Saving.BACKGROUND

    def snapshot(
        self, step: int, scalars: Callable[[], Mapping[str, Any]], votes: Sequence[float], saving: Saving
    ) -> bool:
        """Take a snapshot in memory where the ranks have voted for it; return whether one was taken."""
        if self.snapshots is None:
            return False
        if votes[_OFF] > 0:
            self.durable.unfollow()
            return False
        if saving is Saving.BACKGROUND:
            self.durable.want(step)
            self.pending = False
        return self.snapshots.take(step, votes, lambda: self._state(step, scalars()))

    def before_update(self) -> None:
        """Call this before the parameters change: a snapshot may still be copied from the accelerator."""
        if self.snapshots is not None:
            self.snapshots.tier.before_update()

    def save(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Save durably after ``step`` steps while training waits; a failure is reported and training goes on."""
        self.pending = False
        self.durable.flush()
        self.durable.save(self._state(step, scalars))
        self.tell_outcomes()

    def tell_outcomes(self) -> None:
        """Tell what became of the saves; those in the background must not speak for themselves."""
        while not self.durable.happenings.empty():
            kind, data = self.durable.happenings.get()
            self.reporter.tell(kind, **data)

    def load(self, at_most: int | None = None) -> Loaded | None:
        """Put the state of the highest step that can be used in place, from memory before the disk; None: none there.

        Args:
            at_most: later steps are not to be used; None: there is no such limit.

        Raises:
            CheckpointError: checkpoints were committed and none of them can be used, nor any snapshot.
        """
        if self.snapshots is not None:
            self.snapshots.tier.wait()
        self.pending = False
        self.durable.flush()
        self.tell_outcomes()
        state = self._state(0, {})
        steps = [step for step in files.candidates(self.durable.path) if at_most is None or step <= at_most]
        on_disk = self.peers.from_first(max(steps, default=0))
        loaded = self._from_memory(state, on_disk, at_most) or self._from_disk(state, on_disk, at_most)
        if loaded is None:
            if self.snapshots is not None:
                self.snapshots.tier.forget(0)
            return None
        restore_random_states(loaded.private)
        self.optimiser.resume(loaded.step)
        if self.snapshots is not None:
            self.snapshots.tier.forget(loaded.step, loaded.fence or None)
        self.reporter.tell(
            EventKind.CHECKPOINT_LOADED,
            step=loaded.step,
            seconds=loaded.seconds,
            path=str(loaded.path),
            tier=loaded.tier,
        )
        return loaded

    def close(self) -> None:
        """Let the last snapshot be committed and what is being written become durable."""
        if self.snapshots is not None:
            self.snapshots.close()
        self.durable.close(_CLOSE_S)
        self.tell_outcomes()

    def _state(self, step: int, scalars: Mapping[str, Any]) -> TrainingState:
        weights = {f"model/{name}": part for name, part in self.parameters.items()}
        moments = {f"optimiser/{name}": part for name, part in self.optimiser.state().items()}
        return TrainingState(step=step, parts=weights | moments, private=random_states(), scalars=scalars)

    def _from_memory(self, state: TrainingState, from_step: int, at_most: int | None) -> Loaded | None:
        if self.snapshots is None:
            return None
        return restore(
            self.snapshots.place,
            state,
            peers=self.peers,
            clock=self.clock,
            on_refused=self.reporter.refused,
            fetch=replicas_of_attempt(os.environ, self.clock),
            from_step=from_step,
            at_most=at_most,
        )

    def _from_disk(self, state: TrainingState, on_disk: int, at_most: int | None) -> Loaded | None:
        try:
            return load_checkpoint(
                self.durable.path,
                state,
                peers=self.peers,
                clock=self.clock,
                on_refused=self.reporter.refused,
                at_most=at_most,
            )
        except CheckpointError:
            older = self._from_memory(state, 0, at_most) if on_disk else None
            if older is None:
                raise
            return older


def keeper_of(run: Run[TrainingConfig], parameters: Mapping[str, Part], optimiser: AdamW) -> Keeper | None:
    """Return what saves a run, or None where nothing of it is kept."""
    if run.worker.checkpoint_dir is None or not run.config.saves:
        return None
    peers, snapshots = Peers(), _snapshots_of(run)
    durable = Durable(
        run.worker.checkpoint_dir, peers=peers, clock=run.clock, keep=run.config.task.keep_checkpoints, remote=None
    )
    if snapshots is not None:
        durable.follow(snapshots.tier, _share(snapshots.place, peers), _fence(run))
    return Keeper(
        durable=durable,
        parameters=parameters,
        optimiser=optimiser,
        peers=peers,
        reporter=run.reporter,
        clock=run.clock,
        snapshots=snapshots,
    )


def _fence(run: Run[TrainingConfig]) -> int:
    return generation_fence(run.worker.attempt, run.worker.generation)


def _share(place: Place, peers: Peers) -> Share:
    """Return what this rank writes of the replicated tensors; the node of rank 0 is node 0 however they are sized."""
    size = len(place.ranks_of_node)
    node = 0 if 0 in place.ranks_of_node else max(1, place.rank // size)
    return Share.agree(peers, node, -(-place.world_size // size), size)


def _snapshots_of(run: Run[TrainingConfig]) -> Snapshots | None:
    """Return what takes snapshots in memory; outside Mofang nobody would find them."""
    place = Place.from_environment(os.environ)
    if place is None:
        return None
    return Snapshots(
        place,
        fence=_fence(run),
        advice=AdviceReader.from_environment(os.environ),
        reporter=run.reporter,
        clock=run.clock,
        replicas=copies_of_attempt(os.environ),
    )
