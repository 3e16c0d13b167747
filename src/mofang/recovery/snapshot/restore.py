"""Restore: the newest snapshot whose pieces, on this node and on its peers, tile what every rank needs.

The number of ranks and the layout may have changed since: it is the same plan of reads as over the files of a
checkpoint. Nothing is used before its sum was verified, and a snapshot counts only where every rank can use it.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mofang.clock import Clock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.load import Loaded
from mofang.recovery.checkpoint.manifest import Read
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.state import TrainingState, dtype_name
from mofang.recovery.snapshot.contents import view
from mofang.recovery.snapshot.layout import Box
from mofang.recovery.snapshot.offers import Fetch, Offer
from mofang.recovery.snapshot.place import Place
from mofang.recovery.snapshot.sightings import Moment, Refused, Sighting, look, plan_boxes

__all__ = ["Fetch", "Offer", "restore"]


def restore(
    place: Place,
    state: TrainingState,
    *,
    peers: Peers,
    clock: Clock,
    on_refused: Refused,
    fetch: Fetch | None = None,
    from_step: int = 0,
    at_most: int | None = None,
) -> Loaded | None:
    """Fill the tensors of ``state`` in place; collective. None where no snapshot can be used.

    Args:
        place: of this rank.
        state: where tensors go; only its ``parts`` are used. What was private is returned as it was saved.
        peers: the ranks that restore together.
        clock: times it.
        on_refused: told the path and the reason, on each rank that found one.
        fetch: brings what other nodes hold.
        from_step: snapshots of earlier steps are of no use.
        at_most: nor are those of later steps; None: there is no such limit.
    """
    started = clock.monotonic()
    search = _Search(place, state, on_refused, fetch)
    mine = itertools.chain.from_iterable(search.moments(from_step, at_most))
    for moment in _common(peers.gather(list(mine))):
        found = _attempt(search, moment, peers)
        if found is not None:
            return _loaded(found, moment, place, peers, clock.monotonic() - started)
    return None


def _common(rows: Sequence[Sequence[int]]) -> list[Moment]:
    """Return the moments that every rank named, the newest first: by fence, then by step."""
    named = [set(zip(row[::2], row[1::2], strict=True)) for row in rows]
    return sorted(set.intersection(*named), reverse=True)


@dataclass(slots=True)
class _Found:
    """What one rank reads of one snapshot."""

    sightings: list[Sighting]
    reads: Mapping[str, tuple[Read, ...]]
    seconds: float = 0.0

    @property
    def used(self) -> list[int]:
        """The indices of the sightings that are read from."""
        return sorted({read.shard for reads in self.reads.values() for read in reads})

    @property
    def sources(self) -> list[Sighting]:
        """The slots that are read from."""
        return [self.sightings[index] for index in self.used]


class _Search:
    """What one rank can see and use."""

    def __init__(self, place: Place, state: TrainingState, refused: Refused, fetch: Fetch | None) -> None:
        self.place, self.state, self._refused, self._fetch = place, state, refused, fetch
        self._told: set[tuple[Path, str]] = set()
        self._wanted = {
            name: Box(
                dtype=dtype_name(part.tensor.dtype),
                shape=part.shape,
                offset=part.offset,
                extent=tuple(part.tensor.shape),
            )
            for name, part in state.parts.items()
        }
        self._seen = look(place, self.refused)
        self._offers: dict[Moment, dict[int, Offer]] = {}

    def refused(self, path: Path, why: str) -> None:
        """Say once why something cannot be used."""
        if (path, why) not in self._told:
            self._told.add((path, why))
            self._refused(path, why)

    def moments(self, from_step: int, at_most: int | None) -> set[Moment]:
        """Return the snapshots that this rank can use or hopes to fetch; other nodes are asked only where it must."""
        steps = range(from_step, sys.maxsize if at_most is None else at_most + 1)
        seen = {sighting.moment for sighting in self._seen if sighting.record.step in steps}
        usable = {moment for moment in seen if self._planned(moment) is not None}
        if self._fetch is not None and (not usable or max(seen) not in usable):
            for offer in self._fetch.offers():
                if offer.step in steps:
                    self._offers.setdefault((offer.fence, offer.step), {})[offer.rank] = offer
        return usable | set(self._offers)

    def look(self) -> None:
        """See what is on this node now."""
        self._seen = look(self.place, self.refused)

    def bring_own(self, moment: Moment) -> bool:
        """Fetch this rank's own part where it must; the ranks of a newcomer's node each bring one."""
        return self._planned(moment) is None and self._bring(moment, self.place.rank)

    def bring_rest(self, moment: Moment) -> bool:
        """Fetch the parts of other ranks, one by one, until this rank has what it needs; return whether any came."""
        came = False
        for rank in sorted(self._offers.get(moment, {})):
            if self._planned(moment) is not None:
                break
            if self._bring(moment, rank):
                came = True
                self.look()
        return came

    def find(self, moment: Moment) -> _Found:
        """Return what to read.

        Raises:
            CheckpointError: what is here does not cover what this rank needs.
        """
        parts = self._parts(moment)
        return _Found(parts, plan_boxes(self._wanted, parts))

    def _bring(self, moment: Moment, rank: int) -> bool:
        offer = self._offers.get(moment, {}).get(rank)
        if self._fetch is None or offer is None or any(part.rank == rank for part in self._parts(moment)):
            return False
        return self._fetch.bring(offer)

    def _planned(self, moment: Moment) -> _Found | None:
        try:
            return self.find(moment)
        except CheckpointError:
            return None

    def _parts(self, moment: Moment) -> list[Sighting]:
        """Return the parts of one snapshot, this rank's own first: it is the one that it most likely needs."""
        parts = [sighting for sighting in self._seen if sighting.moment == moment]
        return sorted(parts, key=lambda part: (part.rank != self.place.rank, part.replica, part.rank))


def _attempt(search: _Search, moment: Moment, peers: Peers) -> _Found | None:
    """Bring, verify, fill; None on every rank where any of them could not."""
    for bring in (search.bring_own, search.bring_rest):
        if not peers.all_ok(not bring(moment)):
            search.look()  # what one has brought is there for all ranks of the node
    found, problem = None, ""
    try:
        found = search.find(moment)
    except CheckpointError as error:
        problem = error.message
    if not peers.all_ok(found is not None) or found is None:
        if problem:
            search.refused(search.place.snapshot(search.place.rank), f"step {moment[1]}: {problem}")
        return None
    if not peers.all_ok(_verify(_share(found, search.place, peers), search.refused)):
        return None
    _fill(search.state, found)
    # A copy for another node may have been written meanwhile.
    intact = all(part.arena.record(part.slot) == part.record for part in found.sources)
    return found if peers.all_ok(intact) else None


def _share(found: _Found, place: Place, peers: Peers) -> list[Sighting]:
    """Return the slots that this rank verifies: those which the ranks of its node use are divided among them.

    What lies on a node is the same for all of its ranks, so a slot has a number there.
    """
    order = sorted(range(len(found.sightings)), key=lambda index: found.sightings[index].label)
    rows = peers.gather([order.index(index) for index in found.used])
    used = sorted({number for rank in place.ranks_of_node for number in rows[rank]})
    return [found.sightings[order[number]] for number in used[place.local_rank :: len(place.ranks_of_node)]]


def _verify(share: Iterable[Sighting], refused: Refused) -> bool:
    whole = True
    for part in share:
        try:
            part.verify()
        except CheckpointError as error:
            refused(part.arena.path, error.message)
            whole = False
    return whole


@torch.no_grad()
def _fill(state: TrainingState, found: _Found) -> None:
    targets, sources = [], []
    for name, reads in found.reads.items():
        for read in reads:
            image = found.sightings[read.shard].image
            targets.append(state.parts[name].tensor[read.target])
            sources.append(view(image.data, image.plan, name)[read.source])
    if targets:
        torch._foreach_copy_(targets, sources)


def _loaded(found: _Found, moment: Moment, place: Place, peers: Peers, seconds: float) -> Loaded:
    mine = next((part for part in found.sightings if part.rank == place.rank), None)
    near = peers.all_ok(not any(part.replica for part in found.sources))
    first = min(found.sightings, key=lambda part: part.rank)
    return Loaded(
        step=moment[1],
        fence=moment[0],
        path=found.sources[0].arena.path if found.sources else place.snapshot(place.rank),
        scalars=first.image.meta.scalars,
        seconds=seconds,
        tier="memory" if near else "peer",
        world_size=first.image.meta.world_size,
        private=_private(mine) if mine is not None else {},
        own=_own(found, first.image.meta.world_size, place, peers),
    )


def _private(mine: Sighting) -> dict[str, Tensor]:
    image = mine.image
    return {name: view(image.data, image.plan, name).clone() for name, box in image.plan.boxes.items() if box.private}


def _own(found: _Found, world_size: int, place: Place, peers: Peers) -> tuple[Mapping[str, Any], ...]:
    """Return the JSON values of every rank that saved, as far as some node has them; collective."""
    here = {part.rank: dict(part.image.meta.own) for part in found.sightings if part.image.meta.own}
    told = peers.gather_text(json.dumps(here) if here and place.local_rank == 0 else "")
    known = {int(rank): own for text in told if text for rank, own in json.loads(text).items()}
    return tuple(known.get(rank, {}) for rank in range(world_size))
