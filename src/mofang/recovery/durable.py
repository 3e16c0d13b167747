"""The durable tier of one rank: written from snapshots in the background, or, without any, while training waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import files
from mofang.recovery.checkpoint.background import BackgroundSaver, Outcomes, Slot
from mofang.recovery.checkpoint.load import Loaded, load_checkpoint
from mofang.recovery.checkpoint.parts import Share
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.remote import Remote
from mofang.recovery.checkpoint.save import save_checkpoint
from mofang.recovery.checkpoint.state import TrainingState
from mofang.recovery.checkpoint.upload import Uploader
from mofang.recovery.snapshot.arena import Record
from mofang.recovery.snapshot.memory import MemoryTier

__all__ = ["Durable"]

_UPLOAD_S = 600.0  # at the end of a program, for the last upload
Happening = tuple[EventKind, dict[str, Any]]


class Durable:
    """Checkpoints in a directory.

    What happens in the background is noted, and taken from ``happenings`` by the thread that trains.

    Args:
        path: of the directory, shared by all ranks.
        peers: the ranks.
        clock: times the saves.
        keep: how many complete checkpoints remain.
        remote: where they are uploaded to, if anywhere.
    """

    def __init__(self, path: Path, *, peers: Peers, clock: Clock, keep: int, remote: Remote | None) -> None:
        self.path, self._peers, self._clock, self._keep, self._remote = path, peers, clock, keep, remote
        self.happenings: SimpleQueue[Happening] = SimpleQueue()
        self.last_step = -1  # durable, or being made so
        self._wanted: set[int] = set()
        self._saver: BackgroundSaver | None = None
        first = remote is not None and peers.rank == 0
        self._uploader = Uploader(path, remote, failed=self._failed) if first and remote is not None else None

    def follow(self, tier: MemoryTier, share: Share, run: int) -> None:
        """Write checkpoints from the snapshots of a tier from now on, where ``want`` says so.

        Args:
            tier: of this rank.
            share: what this rank writes of the replicated tensors.
            run: a number that is this generation's alone and alike on its ranks.
        """
        self._saver = BackgroundSaver(
            self.path,
            rank=self._peers.rank,
            share=share,
            run=run,
            keep=self._keep,
            clock=self._clock,
            outcomes=Outcomes(saved=self._saved, failed=self._failed),
        )
        saver = self._saver

        def committed(index: int, record: Record) -> None:
            if record.step in self._wanted and tier.arena is not None:
                self._wanted.discard(record.step)
                saver.submit(Slot(arena=tier.arena, index=index, record=record, release=tier.hold(index)))

        tier.on_commit(committed)

    def unfollow(self) -> None:
        """Write no more snapshots: there are none any more."""
        self._wanted.clear()

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is still being written."""
        return bool(self._wanted) or (self._saver is not None and not self._saver.idle)

    def want(self, step: int) -> None:
        """Make the snapshot of a step durable as soon as it is committed; call it before the snapshot is taken."""
        self._wanted.add(step)
        self.last_step = step

    def newest(self) -> int:
        """Return the newest step that might be loaded, -1 for none; collective."""
        steps: list[int] = []
        if self._peers.rank == 0:
            steps = [*files.candidates(self.path)[:1], *self._remote_candidates()[:1]]
        return self._peers.from_first(max(steps, default=-1))

    def _remote_candidates(self) -> tuple[int, ...]:
        try:
            return self._remote.candidates() if self._remote is not None else ()
        except CheckpointError:
            return ()  # the load will say it

    def load(self, state: TrainingState, on_refused: Callable[[Path, str], None]) -> Loaded | None:
        """Load the newest checkpoint that is whole; collective.

        Raises:
            CheckpointError: there are some and none can be used.
        """
        return load_checkpoint(
            self.path,
            state,
            peers=self._peers,
            clock=self._clock,
            on_refused=on_refused,
            remote=self._remote if self._peers.rank == 0 else None,
        )

    def save(self, state: TrainingState) -> bool:
        """Save while training waits; collective. Return whether it is durable now; where not, training goes on."""
        try:
            saved = save_checkpoint(self.path, state, keep=self._keep, peers=self._peers, clock=self._clock)
        except CheckpointError as error:
            self._failed(state.step, error.message)
            return False
        self.last_step = state.step
        self._saved(saved.step, saved.bytes, saved.seconds)
        return True

    def flush(self) -> bool:
        """Wait until everything wanted is durable; return whether it is."""
        written = self._saver.flush() if self._saver is not None else True
        sent = self._uploader.flush(_UPLOAD_S) if self._uploader is not None else True
        return written and sent

    def close(self, timeout_s: float | None = None) -> None:
        """Flush and end the threads; after so many seconds without an end they are left to the process's."""
        if self._saver is not None:
            self._saver.close(timeout_s)
        if self._uploader is not None:
            self._uploader.close(_UPLOAD_S)

    def _saved(self, step: int, size: int, seconds: float) -> None:
        self.happenings.put((EventKind.CHECKPOINT_SAVED, {"step": step, "bytes": size, "seconds": seconds}))
        if self._uploader is not None:
            self._uploader.submit(step)

    def _failed(self, step: int, message: str) -> None:
        self.happenings.put((EventKind.CHECKPOINT_FAILED, {"step": step, "message": message}))
