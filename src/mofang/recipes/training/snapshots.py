"""Snapshots in memory, as often as they hardly cost anything, and what is told about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.errors import CheckpointError
from mofang.recipes.training.reporter import Reporter
from mofang.recovery.advice import AdviceReader
from mofang.recovery.cadence import Cadence, Every
from mofang.recovery.checkpoint.state import TrainingState
from mofang.recovery.snapshot.memory import BALLOT, MemoryTier, Turn
from mofang.recovery.snapshot.place import Place

__all__ = ["VOTES", "Snapshots"]

VOTES = (
    BALLOT + 2
)  # numbers that ranks add up before others: the tier's ballot, whether a snapshot is wished for, its bytes
_TELL_S = 10.0
_CLOSE_S = 60.0


class Snapshots:
    """The snapshots of one rank.

    Args:
        place: where they lie.
        fence: higher than that of any earlier generation.
        advice: what the agent wishes for.
        reporter: is told what happens.
        clock: the time.
        replicas: on how many other nodes the agents keep each snapshot.
    """

    def __init__(
        self, place: Place, *, fence: int, advice: AdviceReader, reporter: Reporter, clock: Clock, replicas: int = 0
    ) -> None:
        self.place = place
        self.tier = MemoryTier(place, fence=fence, clock=clock, replicas=replicas)
        self._advice, self._reporter, self._clock = advice, reporter, clock
        # Stalls are kept below a hundredth of the time; apart from that, the less there is to do again the better.
        self._cadence = Cadence(Every(), longest_s=0.0)
        self._off = False
        self._count, self._stall_s, self._bytes = 0, 0.0, 0
        self._told_at, self._told_step, self._step = clock.monotonic(), 0, 0

    def start(self, state: TrainingState) -> None:
        """Begin to make the arena; training goes on from ``state``."""
        self.tier.prepare(state)
        self._told_step = self._step = state.step
        self._cadence.start(state.step, self._clock.monotonic())

    def ballot(self, step: int, due: bool) -> tuple[float, ...]:
        """Return what this rank says about a snapshot after ``step`` steps; ``due``: it is to be taken if it can be."""
        now = self._clock.monotonic()
        self._cadence.stepped(now)
        advice = self._advice.look()
        if advice is not None and advice.snapshot:
            self._cadence.wish()
        wished = due or self._cadence.wants(step, now)
        if self.tier.problem and not self._off:
            self._off = True
            self._reporter.report(EventKind.SNAPSHOTS_OFF, message=self.tier.problem)
        return (*self.tier.ballot(), float(wished), float(self.tier.slot_bytes))

    def turn(self, votes: Sequence[float]) -> Turn | None:
        """Return which slot a snapshot goes into; None where no rank wishes for one, or not all can take it."""
        return self.tier.choose(votes) if votes[BALLOT] else None

    def take(self, step: int, votes: Sequence[float], state: Callable[[], TrainingState]) -> bool:
        """Take a snapshot if some rank wishes for one and all can take it; return whether it was taken."""
        turn = self.turn(votes)
        if turn is None:
            return False
        started = self._clock.monotonic()
        try:
            self.tier.take(state(), turn)
        except CheckpointError:
            return False  # the next ballot tells
        now = self._clock.monotonic()
        self._cadence.taken(step, now, now - started)
        self._count, self._stall_s, self._bytes, self._step = (
            self._count + 1,
            self._stall_s + now - started,
            int(votes[BALLOT + 1]),
            step,
        )
        if now - self._told_at >= _TELL_S:
            self._tell()
        return True

    def close(self) -> None:
        """Let the last snapshot be committed."""
        self._tell()
        self.tier.wait(_CLOSE_S)
        self.tier.close()

    def _tell(self) -> None:
        if not self._count:
            return
        self._reporter.tell(
            EventKind.SNAPSHOT,
            step=self._step,
            count=self._count,
            bytes=self._bytes,
            stall_s=self._stall_s,
            every_steps=(self._step - self._told_step) / self._count,
        )
        self._told_at, self._told_step, self._count, self._stall_s = self._clock.monotonic(), self._step, 0, 0.0
