"""What a checkpoint holds and where: boxes of global tensors in shard files. Pure: no I/O, no torch.

A *box* is an offset and a shape inside a global tensor. Every tensor is tiled by its pieces, one box each, so a reader
of any layout finds the pieces that overlap its own box and copies just those slices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mofang.errors import CheckpointError

__all__ = [
    "FORMAT",
    "READABLE",
    "Commit",
    "Manifest",
    "Piece",
    "Read",
    "Shard",
    "TensorEntry",
    "assemble",
    "balance",
    "chunk",
    "plan_reads",
]

FORMAT = 2
READABLE = (1, FORMAT)  # format 1 has neither sums in its JSON files nor values of single ranks

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One box of a tensor, stored under the tensor's name in shard file number ``shard``. Sizes are elements."""

    shard: int
    offset: Shape
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """A global tensor and the pieces that tile it. ``dtype`` is torch's name without its prefix: ``float32``."""

    dtype: str
    shape: Shape
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of a checkpoint: its name inside the step's directory, its size and its SHA-256 sum."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One rank's word that its shard is durable, the pieces that shard holds, and this rank's JSON values."""

    step: int
    rank: int
    world_size: int
    shard: Shard
    tensors: Mapping[str, TensorEntry]
    own: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A complete checkpoint.

    ``scalars`` are the JSON values of the training state that are alike on every rank, ``own`` those of each rank.
    """

    format: int
    step: int
    world_size: int
    shards: tuple[Shard, ...]
    tensors: Mapping[str, TensorEntry]
    scalars: Mapping[str, Any] = field(default_factory=dict)
    own: tuple[Mapping[str, Any], ...] = ()

    @property
    def bytes(self) -> int:
        """Size of all shard files together."""
        return sum(shard.bytes for shard in self.shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Copy ``source`` of a piece in shard ``shard`` to ``target`` of the reader's box; both are slices a dimension."""

    shard: int
    source: tuple[slice, ...]
    target: tuple[slice, ...]


def chunk(length: int, parts: int, index: int) -> tuple[int, int]:
    """Return offset and length of part ``index`` of a dimension, as ``torch.chunk`` and FSDP2 cut it.

    Every part has ceil(length / parts) elements until they run out; late parts may be shorter or empty.
    """
    size = -(-length // parts)
    start = min(index * size, length)
    return start, min(size, length - start)


def balance(sizes: Mapping[str, int], parts: int) -> dict[str, int]:
    """Return the part that writes each tensor: the largest first, each to the part with the fewest bytes so far."""
    loads = [0] * parts
    owners: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner = loads.index(min(loads))
        owners[name] = owner
        loads[owner] += sizes[name]
    return owners


def assemble(commits: Sequence[Commit], scalars: Mapping[str, Any]) -> Manifest:
    """Join the commit records of all ranks of one step.

    Raises:
        CheckpointError: a record is missing or of another step, or the pieces of a tensor do not tile it.
    """
    ordered = sorted(commits, key=lambda commit: commit.rank)
    if not ordered:
        raise CheckpointError("no rank has committed")
    step, world_size = ordered[0].step, ordered[0].world_size
    if [(commit.rank, commit.step, commit.world_size) for commit in ordered] != [
        (rank, step, world_size) for rank in range(world_size)
    ]:
        raise CheckpointError(f"the commit records of step {step} are not those of {world_size} ranks")
    return Manifest(
        format=FORMAT,
        step=step,
        world_size=world_size,
        shards=tuple(commit.shard for commit in ordered),
        tensors=_joined(ordered),
        scalars=dict(scalars),
        own=tuple(dict(commit.own) for commit in ordered),
    )


def _joined(commits: Iterable[Commit]) -> dict[str, TensorEntry]:
    heads: dict[str, TensorEntry] = {}
    pieces: dict[str, dict[tuple[Shape, Shape], Piece]] = {}
    for commit in commits:
        for name, entry in commit.tensors.items():
            head = heads.setdefault(name, entry)
            if (head.dtype, head.shape) != (entry.dtype, entry.shape):
                raise CheckpointError(f"ranks disagree about the type or the shape of {name}")
            held = pieces.setdefault(name, {})
            for piece in entry.pieces:  # ranks that hold the same box (HSDP) each wrote it: one of them is read
                held.setdefault((piece.offset, piece.shape), piece)
    joined = {
        name: TensorEntry(dtype=head.dtype, shape=head.shape, pieces=tuple(pieces[name].values()))
        for name, head in heads.items()
    }
    for name, entry in joined.items():
        _check_tiling(name, entry)
    return joined


def _check_tiling(name: str, entry: TensorEntry) -> None:
    held = sum(math.prod(piece.shape) for piece in entry.pieces)
    inside = all(_inside(piece, entry.shape) for piece in entry.pieces)
    if held != math.prod(entry.shape) or not inside or _any_overlap(entry.pieces):
        raise CheckpointError(f"the pieces of {name} do not tile it: {held} of {math.prod(entry.shape)} elements")


def _inside(piece: Piece, shape: Shape) -> bool:
    return len(piece.offset) == len(piece.shape) == len(shape) and all(
        start >= 0 and start + length <= limit
        for start, length, limit in zip(piece.offset, piece.shape, shape, strict=True)
    )


def _any_overlap(pieces: Iterable[Piece]) -> bool:
    """Sweep along the first dimension, so that a tensor cut into rows costs one comparison a piece."""
    ordered = sorted((piece for piece in pieces if math.prod(piece.shape)), key=lambda piece: piece.offset)
    for index, piece in enumerate(ordered):
        for other in ordered[index + 1 :]:
            if piece.offset and other.offset[0] >= piece.offset[0] + piece.shape[0]:
                break
            if _reads(piece, other.offset, other.shape) is not None:
                return True
    return False


def _reads(piece: Piece, offset: Shape, shape: Shape) -> Read | None:
    source, target = [], []
    for have, length, want, extent in zip(piece.offset, piece.shape, offset, shape, strict=True):
        low, high = max(have, want), min(have + length, want + extent)
        if low >= high:
            return None
        source.append(slice(low - have, high - have))
        target.append(slice(low - want, high - want))
    return Read(shard=piece.shard, source=tuple(source), target=tuple(target))


def plan_reads(name: str, entry: TensorEntry, offset: Shape, shape: Shape) -> tuple[Read, ...]:
    """Return the copies that fill one box of a tensor; none for an empty box.

    Raises:
        CheckpointError: the pieces do not cover the box.
    """
    reads = tuple(read for piece in entry.pieces if (read := _reads(piece, offset, shape)) is not None)
    found = sum(math.prod(part.stop - part.start for part in read.target) for read in reads)
    if found != math.prod(shape):
        raise CheckpointError(f"{name} at {offset} needs {math.prod(shape)} elements, the checkpoint has {found}")
    return reads
