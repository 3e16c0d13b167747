"""What other nodes hold, as a rank that restores sees it. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Fetch", "Offer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A rank's part of a snapshot that some other node holds."""

    rank: int
    fence: int
    step: int


class Fetch(Protocol):
    """Brings parts of snapshots from other nodes."""

    def offers(self) -> Iterable[Offer]:
        """Return what other nodes hold."""

    def bring(self, offer: Offer) -> bool:
        """Put a part into the arena ``Place.replica(rank)`` of this node; return whether it is there.

        Several ranks of a node may ask for the same one at once.
        """
