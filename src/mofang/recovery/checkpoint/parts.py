"""Which bytes one rank writes, from the tensors of its state or from a slot in memory, and how it commits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mofang.recovery.checkpoint import files, records
from mofang.recovery.checkpoint.manifest import Commit, Piece, Shape, TensorEntry, balance
from mofang.recovery.checkpoint.shardfile import Blob, write_shard
from mofang.recovery.snapshot.layout import Image

if TYPE_CHECKING:
    from mofang.recovery.checkpoint.peers import Peers

__all__ = ["Contribution", "Share", "commit", "from_image", "private_name", "read_commits", "write_contribution"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which of the whole copies of the replicated tensors this rank's slot has a part of.

    Every node holds one copy, spread over its ranks; ``copies`` of them share the writing. A ``copy`` beyond the last
    writes none.
    """

    copy: int = 0
    copies: int = 1

    @classmethod
    def agree(cls, peers: Peers, node: int, nodes: int, local_world_size: int) -> Share:
        """Return this node's share; collective.

        Nodes of one size hold the same tensors at the same local rank, so they can divide them without a word; where
        the sizes differ, node 0 writes all.
        """
        alike = peers.all_ok(peers.from_first(local_world_size) == local_world_size)
        return cls(copy=node, copies=nodes if alike else 1)


@dataclass(slots=True, kw_only=True)
class Contribution:
    """What one rank writes of one step."""

    step: int
    rank: int
    world_size: int
    own: Mapping[str, Any]
    entries: dict[str, TensorEntry] = field(default_factory=dict)
    blobs: list[Blob] = field(default_factory=list)

    def add(self, name: str, entry: TensorEntry, offset: Shape, extent: Shape, data: memoryview) -> None:
        """Add one box of a tensor; an empty one only tells the tensor's type and shape."""
        pieces = (Piece(shard=self.rank, offset=offset, shape=extent),) if len(data) else ()
        self.entries[name] = TensorEntry(dtype=entry.dtype, shape=entry.shape, pieces=pieces)
        if pieces:
            self.blobs.append(Blob(name=name, dtype=entry.dtype, shape=extent, data=data))


def private_name(rank: int, name: str) -> str:
    """Return the name under which a rank's own tensor is kept."""
    return f"rank-{rank:05d}/{name}"


def from_image(image: Image, share: Share) -> Contribution:
    """Return what a rank writes of its slot: sharded boxes, private tensors and its share of the replicated ones."""
    meta, boxes = image.meta, image.plan.boxes
    copies = balance({name: box.nbytes for name, box in boxes.items() if box.replicated}, share.copies)
    part = Contribution(step=meta.step, rank=meta.rank, world_size=meta.world_size, own=meta.own)
    for name, box in boxes.items():
        if copies.get(name, share.copy) == share.copy:
            entry = TensorEntry(dtype=box.dtype, shape=box.shape, pieces=())
            stored = private_name(meta.rank, name) if box.private else name
            part.add(stored, entry, box.offset, box.extent, image.tensor(name))
    return part


def write_contribution(target: Path, part: Contribution) -> Commit:
    """Write a rank's shard into a step's draft and return the commit record, which ``commit`` makes count.

    Raises:
        OSError: it could not be written.
    """
    shard = write_shard(target / files.shard_name(part.rank, part.world_size), part.blobs)
    return Commit(
        step=part.step, rank=part.rank, world_size=part.world_size, shard=shard, tensors=part.entries, own=part.own
    )


def commit(target: Path, record: Commit) -> None:
    """Say that a rank's shard is durable."""
    records.write_commit(files.commit_path(target, record.rank, record.world_size), record)


def read_commits(target: Path, world_size: int) -> list[Commit]:
    """Return the commit records of all ranks.

    Raises:
        CheckpointError: one is missing, torn or corrupt.
    """
    return [records.read_commit(files.commit_path(target, rank, world_size)) for rank in range(world_size)]
