"""A rank's part of the global batch: the same sequences are trained on together, however many ranks there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Piece", "Share"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One forward pass: the places of the global batch from ``first`` on.

    ``weight`` is how much its mean counts, relative to the mean micro-batch of the step. A rank that has fewer passes
    than others repeats a place with weight 0, because sharded layouts need all ranks in every pass.
    """

    first: int
    size: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Who takes which places of the global batch.

    Ranks take consecutive parts that differ by one place at most, and all make the same number of passes of at most
    ``micro_batch`` places. Where everything divides evenly, as in the plan, every pass is one whole micro-batch; on
    another number of ranks passes may be smaller, and the mean over the global batch stays what it is.
    """

    rank: int
    world_size: int
    micro_batch: int
    global_batch: int

    @property
    def first(self) -> int:
        """This rank's first place."""
        return self._bound(self.rank)

    @property
    def size(self) -> int:
        """How many places this rank takes."""
        return self._bound(self.rank + 1) - self.first

    @property
    def passes(self) -> int:
        """Forward passes of one step, alike on every rank."""
        most = -(-self.global_batch // self.world_size)
        return -(-most // self.micro_batch)

    def pieces(self) -> Iterator[Piece]:
        """Yield this rank's forward passes of one step."""
        total = self.world_size * self.passes
        for index in range(self.passes):
            first, end = (self.size * at // self.passes for at in (index, index + 1))
            weight = (end - first) * total / self.global_batch
            start = min(self.first + first, self.global_batch - 1)
            yield Piece(first=start, size=max(1, end - first), weight=weight)

    def _bound(self, rank: int) -> int:
        return self.global_batch * rank // self.world_size
