"""What must not be found again, and what must not be lost yet: snapshots of a past that was left. No torch."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mofang.clock import Clock
from mofang.recovery.replica.lag import Lag
from mofang.recovery.replica.shelf import Shelf
from mofang.recovery.snapshot.arena import Arena, Record
from mofang.recovery.snapshot.place import Place

__all__ = ["forget_later", "lag_of", "remove_older"]


def lag_of(place: Place, replicas: int, fence: int, clock: Clock) -> Lag | None:
    """Return what follows the copies of a rank, or None where there are no other nodes to keep any."""
    nodes = -(-place.world_size // len(place.ranks_of_node))
    if min(replicas, nodes - 1) < 1:
        return None
    return Lag(
        place.folder,
        place.prefix,
        place.rank,
        ranks=len(place.ranks_of_node),
        copies=min(replicas, nodes - 1),
        fence=fence,
        clock=clock,
    )


def forget_later(place: Place, step: int, fence: int | None) -> None:
    """Drop this rank's snapshots that are later than a state, and, as the first rank of the node, such copies.

    Args:
        place: of this rank.
        step: of the state.
        fence: of the snapshot that it was loaded from; None: it was no snapshot, and steps alone are compared.
    """

    def later(record: Record) -> bool:
        return record.step > step if fence is None else (record.fence, record.step) > (fence, step)

    for path in place.own_arenas():
        arena = Arena.open(path)
        for index, record in arena.records().items() if arena is not None else ():
            if later(record):
                arena.invalidate(index)  # type: ignore[union-attr]
    if place.local_rank == 0:
        shelf = Shelf(place.folder, place.prefix)
        for rank in {item.rank for item in shelf.holdings() if item.kind == "replica" and later(item.record)}:
            shelf.forget(rank, later)


def remove_older(path: Path, fence: int) -> None:
    """Remove an arena unless it is of this generation; its owner may be putting a new one in its place just now."""
    aside = path.with_name(f"{path.name}.draft")
    with contextlib.suppress(FileNotFoundError):
        path.replace(aside)
        if _newest_fence(aside) < fence:
            aside.unlink()
        else:
            aside.replace(path)


def _newest_fence(path: Path) -> int:
    arena = Arena.open(path)
    records = list(arena.records().values()) if arena is not None else []
    return records[0].fence if records else -1
