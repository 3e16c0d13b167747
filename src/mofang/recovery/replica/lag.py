"""Which slots a rank may overwrite, so that it never loses the step that its copies on other nodes have in common.

A rank has two slots and its copies lag behind. Were it to overwrite the older one before the newer one is on its peers,
then until the copy is made the loss of a node would leave no step that all ranks have: the survivors would have the
newer one alone, the peers of the lost node the older one. So a slot is free only where the other one is replicated; a
link that is slower than the snapshots makes them rarer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mofang.clock import Clock
from mofang.recovery.replica.kept import forget_kept, replicated
from mofang.recovery.replica.shelf import Stamp, stamp
from mofang.recovery.snapshot.arena import SLOTS, Record

__all__ = ["Lag"]

_PATIENCE_S = 60.0
_SLOWEST = 16e6  # bytes/s at which a copy may come; beyond that its peer is held to be gone


class Lag:
    """Follows how far the copies of one rank have come. A look is a small file's read.

    Args:
        folder: where the arenas of the node lie.
        prefix: what their names start with.
        rank: whose.
        ranks: number of ranks of the node, whose copies share the link.
        copies: on how many other nodes each snapshot is to be.
        fence: of this generation.
        clock: the time.
        patience_s: how long a copy is waited for beside the time of a very slow link.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        rank: int,
        *,
        ranks: int,
        copies: int,
        fence: int,
        clock: Clock,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._folder, self._prefix, self._rank, self._ranks = folder, prefix, rank, ranks
        self._copies, self._fence, self._clock, self._patience_s = copies, fence, clock, patience_s
        self._known: set[Stamp] = set()
        self._waiting: tuple[Stamp, float] | None = None  # for which copy, since when

    def free(self, records: Mapping[int, Record]) -> tuple[bool, bool]:
        """Return whether the older and whether the newer slot may be overwritten.

        Args:
            records: what the slots hold, the newest first.
        """
        held = list(records.values())
        if len(held) < SLOTS:
            return True, False  # the empty one costs nothing
        newer, older = stamp(held[0]), stamp(held[1])
        if newer[0] != self._fence:
            return True, True  # of the generation before: it is what all have in common
        found = replicated(self._folder, self._prefix, self._rank, self._copies)
        self._known = {item for item in (*self._known, found) if item in {newer, older}}
        safe = older in self._known or older[0] != self._fence
        if newer in self._known:
            self._waiting = None
            return True, safe
        late = self._is_late(newer, held[0].length)
        # Where nothing was ever replicated there is nothing to lose.
        return late and not safe, late and safe

    def _is_late(self, what: Stamp, length: int) -> bool:
        now = self._clock.monotonic()
        if self._waiting is None:
            self._waiting = (what, now)
        return now - self._waiting[1] > self._patience_s + self._ranks * length / _SLOWEST

    def forget(self) -> None:
        """Take in that training goes on from an earlier step: what was replicated later is void."""
        self._known.clear()
        self._waiting = None
        forget_kept(self._folder, self._prefix, self._rank)
