"""Durable checkpoints written from slots in memory, beside the training. No torch, and no word between ranks but files.

Each rank writes its shard and then its commit record into the step's draft directory, which all ranks see. Rank 0 waits
until every record is there, checks that the parts make a whole, and gives the draft its name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mofang.clock import Clock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import files, parts
from mofang.recovery.checkpoint.chores import Chores
from mofang.recovery.checkpoint.complete import complete
from mofang.recovery.checkpoint.parts import Share
from mofang.recovery.checkpoint.writing import write_atomic
from mofang.recovery.snapshot.arena import Arena, Record
from mofang.recovery.snapshot.layout import Meta, read_slot

__all__ = ["BackgroundSaver", "Outcomes", "Slot"]

_PATIENCE_S = 600.0
_POLL_S = (0.005, 0.5)  # at first, and at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A committed slot that is held: nobody overwrites it until ``release`` is called."""

    arena: Arena
    index: int
    record: Record
    release: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Who is told what became of a save, on rank 0 and from the background thread.

    ``saved`` gets the step, its bytes and its seconds; ``failed`` the step and the reason.
    """

    saved: Callable[[int, int, float], None]
    failed: Callable[[int, str], None]


class BackgroundSaver:
    """Makes the slots of one rank durable, one after the other.

    Every rank must submit the same steps: a step that is due while ``idle`` is false on any rank is better left out on
    all of them.

    Args:
        directory: of the checkpoints, shared by all ranks.
        rank: of this process.
        share: what it writes of the replicated tensors.
        run: a number that is this generation's alone and alike on its ranks.
        keep: how many complete checkpoints remain.
        clock: times the saves and the waiting.
        outcomes: who is told.
        patience_s: how long rank 0 waits for the others' commit records.
    """

    def __init__(
        self,
        directory: Path,
        *,
        rank: int,
        share: Share,
        run: int,
        keep: int,
        clock: Clock,
        outcomes: Outcomes,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._directory, self._rank, self._share, self._run = directory, rank, share, run
        self._keep, self._clock, self._outcomes, self._patience_s = keep, clock, outcomes, patience_s
        self._claimed = False
        self._chores = Chores("mofang-checkpoint", self._save)

    @property
    def idle(self) -> bool:
        """Whether nothing is being written or waits to be."""
        return self._chores.idle

    def submit(self, slot: Slot) -> None:
        """Write a slot out; returns at once. The slot is released as soon as the shard is written, or has failed."""
        self._chores.put(slot)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was submitted is durable; return whether it is.

        On rank 0 that is the whole step, on the others their own part of it.
        """
        return self._chores.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """Flush and end the thread; return what ``flush`` did."""
        return self._chores.close(timeout_s)

    def _save(self, slot: Slot) -> bool:
        started = self._clock.monotonic()
        draft = files.draft_dir(self._directory, slot.record.step, self._run)
        try:
            meta = self._write(slot, draft)
            size = self._finish(draft, meta) if self._rank == 0 else 0
        except (OSError, CheckpointError) as error:
            self._give_up(draft, slot.record.step, str(error) or type(error).__name__)
            return False
        if self._rank == 0:
            self._outcomes.saved(slot.record.step, size, self._clock.monotonic() - started)
        return True

    def _write(self, slot: Slot, draft: Path) -> Meta:
        try:
            self._begin(draft)
            if slot.arena.verify(slot.index) != slot.record:
                raise CheckpointError("the snapshot was overwritten before it was written out")
            image = read_slot(slot.arena.slot(slot.index)[: slot.record.length])
            record = parts.write_contribution(draft, parts.from_image(image, self._share))
            if slot.arena.record(slot.index) != slot.record:
                raise CheckpointError("the snapshot was overwritten while it was written out")
        finally:
            slot.release()
        parts.commit(draft, record)
        return image.meta

    def _begin(self, draft: Path) -> None:
        if self._rank == 0 and not self._claimed:
            files.claim(self._directory, self._run)
            self._claimed = True
        draft.mkdir(parents=True, exist_ok=True)

    def _finish(self, draft: Path, meta: Meta) -> int:
        self._await(draft, meta.world_size)
        if files.claimed_by(self._directory) != self._run:
            raise CheckpointError("another generation has taken over")
        return complete(
            self._directory,
            draft,
            step=meta.step,
            world_size=meta.world_size,
            scalars=meta.scalars,
            keep=self._keep,
        )

    def _await(self, draft: Path, world_size: int) -> None:
        """Return once every rank has committed; looks at what is missing only, ever more seldom."""
        until, pause = self._clock.monotonic() + self._patience_s, _POLL_S[0]
        missing = list(range(world_size))
        while missing := [rank for rank in missing if not files.commit_path(draft, rank, world_size).exists()]:
            if (problem := _problem(draft)) is not None:
                raise CheckpointError(problem)
            if self._clock.monotonic() >= until:
                raise CheckpointError(
                    f"{len(missing)} of {world_size} ranks, rank {missing[0]} first, did not commit "
                    f"within {self._patience_s:g} s"
                )
            self._clock.sleep(pause)
            pause = min(2 * pause, _POLL_S[1])

    def _give_up(self, draft: Path, step: int, problem: str) -> None:
        if self._rank == 0:
            shutil.rmtree(draft, ignore_errors=True)
            self._outcomes.failed(step, problem)
            return
        try:  # rank 0 runs out of patience where even this cannot be written
            write_atomic(draft / f"failed-{self._rank:05d}", [f"rank {self._rank}: {problem}".encode()])
        except OSError:
            return


def _problem(draft: Path) -> str | None:
    """Return what a rank that could not write its part has left word of."""
    for path in draft.glob("failed-*"):
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
    return None
