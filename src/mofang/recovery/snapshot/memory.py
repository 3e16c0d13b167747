"""Snapshots of the training state in shared memory, where they outlive the process.

Training stands still for one copy; sums and the commit follow in the background. A snapshot counts once its record is
written, so of the two slots at least one is whole at any moment.

Ranks must take the same snapshots into the same of their slots, or no step is left that all of them hold. So before
each one they add up their ballots, in any all-reduce that a step has anyway:

>>> votes = all_reduce_sum(tier.ballot())
>>> if (turn := tier.choose(votes)) is not None:
...     tier.take(state, turn)
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from enum import IntEnum

import torch
from torch import Tensor

from mofang.clock import Clock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.chores import Chores
from mofang.recovery.checkpoint.state import TrainingState
from mofang.recovery.snapshot.arena import SLOTS, Arena, Record
from mofang.recovery.snapshot.contents import boxes_of, sources_of, views_of
from mofang.recovery.snapshot.copies import Copies, copies_for
from mofang.recovery.snapshot.layout import Header, Meta, plan_slot
from mofang.recovery.snapshot.past import forget_later, lag_of, remove_older
from mofang.recovery.snapshot.place import Place, check_memory

__all__ = ["BALLOT", "Listener", "MemoryTier", "Turn", "generation_fence"]

Listener = Callable[[int, Record], None]

BALLOT = 3  # numbers of a ballot
_SPARE_BYTES = 1 << 20  # of a slot: the JSON values and the random states may grow
_LOOSE = 2  # an arena that is there is used again unless its slots are more than so many times too large
_GENERATIONS = 20  # bits


class Turn(IntEnum):
    """Which slot a snapshot goes into; what they are called does not depend on which rank is asked."""

    OLDER = 0
    NEWER = 1


def generation_fence(attempt: int, generation: int) -> int:
    """Return the fence number of the snapshots of one generation: a later one has a higher number."""
    return attempt << _GENERATIONS | generation


class MemoryTier:
    """One rank's snapshots in memory.

    All methods are for the thread that trains; listeners run in the background.

    Args:
        place: of this rank's arena.
        fence: higher than that of every process that may have written there before.
        clock: times the stalls.
        replicas: on how many other nodes each snapshot is kept too; snapshots do not get ahead of these copies.
    """

    def __init__(self, place: Place, *, fence: int, clock: Clock, replicas: int = 0) -> None:
        self._place, self._fence, self._clock = place, fence, clock
        self._chores: Chores[Callable[[], None]] = Chores("mofang-snapshots", self._run)
        self._problem = ""
        self._listeners: list[Listener] = []
        self._lag = lag_of(place, replicas, fence, clock)
        self._lock, self._held = threading.Lock(), [0] * SLOTS
        self._arena: Arena | None = None
        self._slots: list[list[Tensor]] = []
        self._header: Header | None = None
        self._copies: Copies | None = None
        self._taken = 0
        self._settled = False

    @property
    def problem(self) -> str:
        """Why there are no snapshots in memory any more, or "" while all is well."""
        return self._problem

    @property
    def arena(self) -> Arena | None:
        """The arena, once it is made."""
        return self._arena

    @property
    def slot_bytes(self) -> int:
        """The bytes of a snapshot of this rank; 0 until they are known."""
        return self._header.plan.length if self._header is not None else 0

    @property
    def ready(self) -> bool:
        """Whether a snapshot can be taken now: the arena is there and the last snapshot is committed."""
        return self._arena is not None and self._chores.idle and not self.problem

    def on_commit(self, listener: Listener) -> None:
        """Call ``listener(slot, record)`` in the background after each commit.

        The next snapshot waits until it returns; what takes longer holds the slot and goes on in a thread of its own.
        """
        self._listeners.append(listener)

    def prepare(self, state: TrainingState) -> None:
        """Begin to make the arena, in the background: gigabytes of memory take seconds.

        Until it is there ``choose`` gives no turn. Where it cannot be made, ``problem`` says why.
        """
        ranks = self._place.ranks_of_node
        boxes = boxes_of(state, self._place.local_rank, len(ranks))
        header = Header(plan_slot(boxes, len(json.dumps([dict(state.scalars), dict(state.own)]))))
        device = next((tensor.device for tensor in sources_of(state, boxes) if tensor.is_cuda), None)
        self._chores.put(lambda: self._make(header, device))

    def ballot(self, *, urgent: bool = False) -> tuple[float, float, float]:
        """Return what this rank says about the next snapshot, to be added up over ranks.

        Args:
            urgent: copies on other nodes are not waited for.
        """
        if self._arena is None or not self.ready:
            return 1.0, 0.0, 0.0
        older, newer = self._order()
        free = (True, True) if self._lag is None or urgent else self._lag.free(self._arena.records())
        return 0.0, float(self._held[older] > 0 or not free[0]), float(self._held[newer] > 0 or not free[1])

    def choose(self, votes: Sequence[float]) -> Turn | None:
        """Return which slot is free on every rank, or None: some rank is not ready.

        The older one, as long as nobody holds it; then the newer one.

        Args:
            votes: the sum of the ballots of all ranks.
        """
        busy, older, newer = votes[:BALLOT]
        if busy or (older and newer):
            return None
        return Turn.NEWER if older else Turn.OLDER

    def take(self, state: TrainingState, turn: Turn | None = None) -> float:
        """Copy the state into a slot; return for how many seconds training stood still.

        It waits for the arena and for the commit of the last snapshot where they are not there yet: several ranks
        agree on a turn first, then there is no wait. On accelerators only the start of the copy is waited for, and
        ``before_update`` must be called before the state changes.

        Args:
            state: with the tensors that ``prepare`` was given.
            turn: what ``choose`` returned; None: as it suits this rank.

        Raises:
            CheckpointError: there is no tier, or the state has outgrown its slot.
        """
        started = self._clock.monotonic()
        self._chores.flush()
        if turn is None and not self.problem:
            turn = self.choose(self.ballot(urgent=True))
        if self._arena is None or self._copies is None or self.problem or turn is None:
            raise CheckpointError(f"no snapshot can be taken: {self.problem or 'both slots are in use'}")
        if self._taken and not self._settled:
            self._settle()
        try:
            self._write(self._arena, self._order()[turn], state)
        except CheckpointError as error:
            self._problem = error.message
            raise
        return self._clock.monotonic() - started

    def before_update(self) -> None:
        """Call this before anything that was copied changes; the accelerator waits there, not the program."""
        if self._copies is not None:
            self._copies.guard()

    def hold(self, slot: int) -> Callable[[], None]:
        """Keep a slot from being written, from within a listener; call what is returned to let go of it.

        Other ranks learn of it with the next ballot, and leave theirs too.
        """
        self._hold(slot, 1)
        return lambda: self._hold(slot, -1)

    def forget(self, step: int, fence: int | None = None) -> None:
        """Drop what is later than the state that training goes on from: it could not be used, or that past was left.

        The first rank of the node drops the copies that are kept here for others too: their ranks go on from there as
        well, and what a node that is gone has left on its peers must not come back.

        Args:
            step: that training goes on from.
            fence: of the snapshot that was loaded; None: it was no snapshot, and steps alone are compared.
        """
        self._chores.flush()
        forget_later(self._place, step, fence)
        if self._lag is not None:
            self._lag.forget()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the last snapshot is committed; return whether it is."""
        return self._chores.flush(seconds) and not self._problem

    def close(self) -> None:
        """Commit what is under way and end the thread; what is in memory stays."""
        self._chores.close()
        if self._copies is not None:
            self._copies.close()

    def _hold(self, slot: int, change: int) -> None:
        with self._lock:
            self._held[slot] += change

    def _order(self) -> tuple[int, int]:
        """Return the older and the newer slot. One that holds nothing is older."""
        records = list(self._arena.records()) if self._arena is not None else []
        newer = records[0] if records else 1
        return 1 - newer, newer

    def _write(self, arena: Arena, index: int, state: TrainingState) -> None:
        header, sources = self._lay_out(arena, state)
        meta = Meta(
            step=state.step,
            fence=self._fence,
            rank=self._place.rank,
            world_size=self._place.world_size,
            scalars=state.scalars,
            own=state.own,
        )
        text = header.render(meta)
        arena.invalidate(index)
        self._copies.start(self._slots[index], sources)  # type: ignore[union-attr]
        self._taken += 1
        self._chores.put(lambda: self._commit(arena, index, text, header.plan.length, state.step))

    def _lay_out(self, arena: Arena, state: TrainingState) -> tuple[Header, list[Tensor]]:
        """Return the header and the sources; where the tensors are no longer those of the last time, plan again."""
        header = self._header
        if header is not None:
            try:
                if set(state.private) <= set(header.plan.boxes):
                    return header, sources_of(state, header.plan.boxes)
            except CheckpointError:
                pass  # another plan may fit
        boxes = boxes_of(state, self._place.local_rank, len(self._place.ranks_of_node))
        header = Header(plan_slot(boxes, len(json.dumps([dict(state.scalars), dict(state.own)]))))
        if header.plan.length > arena.slot_bytes:
            raise CheckpointError(f"the state of step {state.step} has outgrown its snapshots in memory")
        self._use(arena, header)
        return header, sources_of(state, boxes)

    def _use(self, arena: Arena, header: Header) -> None:
        self._slots = [views_of(arena.slot(index), header.plan) for index in range(SLOTS)]
        self._header = header

    # in the background

    def _run(self, job: Callable[[], None]) -> bool:
        if not self._problem:
            try:
                job()
            except CheckpointError as error:
                self._problem = f"{error.message} ({error.hint})" if error.hint else error.message
            except (OSError, RuntimeError) as error:
                self._problem = f"{type(error).__name__}: {error}"
        return not self._problem

    def _make(self, header: Header, device: torch.device | None) -> None:
        for draft in self._place.drafts():
            draft.unlink(missing_ok=True)
        arena = self._existing(header.plan.length) or self._new(header.plan.length + _SPARE_BYTES)
        self._copies = copies_for(arena, device)
        self._use(arena, header)
        self._arena = arena

    def _existing(self, need: int) -> Arena | None:
        for path in self._place.own_arenas():
            arena = Arena.open(path)
            if arena is not None and need <= arena.slot_bytes <= _LOOSE * (need + _SPARE_BYTES):
                arena.touch()
                return arena
        return None

    def _new(self, slot_bytes: int) -> Arena:
        """Make an arena, beside one that does not fit any more: that counts until all ranks have new snapshots."""
        check_memory(Arena.size_of(slot_bytes), len(self._place.ranks_of_node))
        path = self._place.snapshot(self._place.rank)
        return Arena.create(path.with_name(f"{path.name}.f{self._fence:x}") if path.exists() else path, slot_bytes)

    def _commit(self, arena: Arena, index: int, text: bytes, length: int, step: int) -> None:
        arena.slot(index)[: len(text)] = text
        if self._copies is not None:
            self._copies.wait()
        record = Record(step=step, fence=self._fence, length=length, sum=arena.sum(index, length))
        arena.commit(index, record)
        for listener in self._listeners:
            listener(index, record)

    def _settle(self) -> None:
        """Now that every rank has committed a snapshot of this generation, remove those of ranks that are no more."""
        self._settled = True
        arena, place = self._arena, self._place
        if arena is not None and arena.path != (path := place.snapshot(place.rank)):
            arena.move(path)
        if place.local_rank == 0:
            kept = {place.snapshot(rank).name for rank in place.ranks_of_node}
            for other in place.snapshots():
                if other.stem not in kept and other.name not in kept:
                    remove_older(other, self._fence)
