"""The snapshots that can be seen on a node, and how their pieces fill what a rank needs. No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.manifest import Piece, Read, TensorEntry, plan_reads
from mofang.recovery.snapshot.arena import Arena, Record
from mofang.recovery.snapshot.layout import Box, Image, read_slot
from mofang.recovery.snapshot.place import Place

__all__ = ["Moment", "Refused", "Sighting", "look", "plan_boxes"]

Refused = Callable[[Path, str], None]
Moment = tuple[int, int]  # fence and step: what tells one snapshot of a job from another


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sighting:
    """One slot of one arena; its header was read, its sum was not verified."""

    arena: Arena
    slot: int
    record: Record
    image: Image
    replica: bool

    @property
    def moment(self) -> Moment:
        """Which snapshot it is a part of."""
        return self.record.fence, self.record.step

    @property
    def rank(self) -> int:
        """Whose part it is."""
        return self.image.meta.rank

    @property
    def label(self) -> tuple[str, int]:
        """What all ranks of a node call it."""
        return self.arena.path.name, self.slot

    def verify(self) -> None:
        """Raise ``CheckpointError`` unless every byte is as it was committed."""
        if self.arena.verify(self.slot) != self.record:
            raise CheckpointError(f"the snapshot of step {self.record.step} was overwritten")


def look(place: Place, refused: Refused) -> list[Sighting]:
    """Return what lies on this node, this node's own snapshots first; what cannot be read is refused."""
    found = []
    for path in place.arenas():
        arena = Arena.open(path)
        if arena is None:
            refused(path, "it is no whole arena")
            continue
        for index, record in arena.records().items():
            try:
                found.append(_sight(arena, index, record, place.is_replica(path)))
            except CheckpointError as error:
                refused(path, error.message)
    return found


def _sight(arena: Arena, index: int, record: Record, replica: bool) -> Sighting:
    image = read_slot(arena.slot(index)[: record.length])
    if (image.meta.fence, image.meta.step) != (record.fence, record.step):
        raise CheckpointError(f"the snapshot says step {image.meta.step}, its record says {record.step}")
    return Sighting(arena=arena, slot=index, record=record, image=image, replica=replica)


def plan_boxes(wanted: Mapping[str, Box], sightings: Sequence[Sighting]) -> dict[str, tuple[Read, ...]]:
    """Return the copies that fill each wanted box; ``shard`` of a copy is the index of the sighting.

    Args:
        wanted: a reader's boxes by name.
        sightings: parts of one snapshot. Where several hold the same box the first one is used.

    Raises:
        CheckpointError: they are of another model, or do not cover what is wanted.
    """
    entries = _entries(sightings)
    if foreign := sorted(set(entries) - set(wanted)):
        raise CheckpointError(f"the snapshot is of another model: {foreign[0]} is only in it")
    reads = {}
    for name, box in wanted.items():
        entry = entries.get(name) or TensorEntry(dtype=box.dtype, shape=box.shape, pieces=())
        if (entry.dtype, entry.shape) != (box.dtype, box.shape):
            raise CheckpointError(
                f"the snapshot is of another model: {name} is {entry.dtype}{list(entry.shape)}, "
                f"not {box.dtype}{list(box.shape)}"
            )
        reads[name] = plan_reads(name, entry, box.offset, box.extent)
    return reads


def _entries(sightings: Sequence[Sighting]) -> dict[str, TensorEntry]:
    heads: dict[str, Box] = {}
    pieces: dict[str, dict[tuple[tuple[int, ...], ...], Piece]] = defaultdict(dict)
    for index, name, box in _shared_boxes(sightings):
        head = heads.setdefault(name, box)
        if (head.dtype, head.shape) != (box.dtype, box.shape):
            raise CheckpointError(f"snapshots disagree about the type or the shape of {name}")
        piece = Piece(shard=index, offset=box.offset, shape=box.extent)
        pieces[name].setdefault((box.offset, box.extent), piece)
    return {
        name: TensorEntry(dtype=head.dtype, shape=head.shape, pieces=tuple(pieces[name].values()))
        for name, head in heads.items()
    }


def _shared_boxes(sightings: Sequence[Sighting]) -> Iterable[tuple[int, str, Box]]:
    for index, sighting in enumerate(sightings):
        for name, box in sighting.image.plan.boxes.items():
            if not box.private:
                yield index, name, box
