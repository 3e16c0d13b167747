"""How ranks agree on snapshots without waiting for each other.

What a rank knows after a step (a clock says that it is time, somebody wished for a snapshot, its last one is
committed) is added up over all ranks in an all-reduce of a few numbers, on a gloo group of its own, which is started
after one step and read after the next. By then it has long been done, so it costs no waiting; a wish is granted one
step later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, distributed

from mofang.clock import Clock
from mofang.recovery.snapshot.memory import MemoryTier, Turn

__all__ = ["Agreement", "next_turn"]

_POLL_S = 0.02
_PATIENCE_S = 600.0


class Agreement:
    """The sums of what all ranks say, one step late; alone, what this process says, at once.

    Args:
        group: a process group that nobody else uses; None for one process.
    """

    def __init__(self, group: distributed.ProcessGroup | None) -> None:
        self._group = group
        self._sent: tuple[Tensor, distributed.Work] | None = None

    def collect(self, say: Callable[[], Sequence[float]]) -> list[float] | None:
        """Return the sums of what was said after the last step; None where nothing was.

        Args:
            say: what this process says, asked for only where it is alone.

        Raises:
            RuntimeError: a rank is gone.
        """
        if self._group is None:
            return list(say())
        if self._sent is None:
            return None
        votes, work = self._sent
        self._sent = None
        work.wait()
        found: list[float] = votes.tolist()
        return found

    def issue(self, say: Callable[[], Sequence[float]]) -> None:
        """Say something to the other ranks; ``collect`` has to be called before the next time."""
        if self._group is None:
            return
        votes = torch.tensor(say(), dtype=torch.float64)
        work = distributed.all_reduce(votes, group=self._group, async_op=True)
        self._sent = (votes, work)

    def now(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all ranks, waiting for them."""
        if self._group is None:
            return list(values)
        votes = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(votes, group=self._group)
        found: list[float] = votes.tolist()
        return found


def next_turn(tier: MemoryTier, agreement: Agreement, clock: Clock) -> Turn | None:
    """Wait for a slot that is free on all ranks; collective.

    Returns:
        The slot, or None where a rank has no memory tier any more, or the last snapshots take minutes.
    """
    until = clock.monotonic() + _PATIENCE_S
    while True:
        tier.wait(_POLL_S)
        late = bool(tier.problem) or clock.monotonic() > until
        given_up, *ballot = agreement.now([float(late), *tier.ballot(urgent=True)])
        if given_up:
            return None
        turn = tier.choose(ballot)
        if turn is not None:
            return turn
        clock.sleep(_POLL_S)
