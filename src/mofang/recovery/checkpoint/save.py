"""Save: every rank writes its shard and commits; only then does rank 0 complete the step and move ``latest``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mofang.clock import Clock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import files
from mofang.recovery.checkpoint.manifest import Commit, Piece, TensorEntry, assemble
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.state import TrainingState, dtype_name

__all__ = ["Saved", "private_name", "save_checkpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint that every rank has committed. ``bytes`` is this rank's shard on other ranks than 0."""

    step: int
    bytes: int
    seconds: float


def private_name(rank: int, name: str) -> str:
    """Return the name under which a rank's own tensor is kept."""
    return f"rank-{rank:05d}/{name}"


def save_checkpoint(directory: Path, state: TrainingState, *, keep: int, peers: Peers, clock: Clock) -> Saved:
    """Make the state durable; collective. ``latest`` moves only after every rank has committed.

    Args:
        directory: shared by all ranks.
        state: what training goes on from.
        keep: how many complete checkpoints remain.
        peers: the ranks that save together.
        clock: times the save.

    Raises:
        CheckpointError: on every rank, where any rank could not write; the partial step is removed, ``latest`` stands.
    """
    started = clock.monotonic()
    target = files.step_dir(directory, state.step)
    _together(peers, target, lambda: _clear(target) if peers.rank == 0 else None)
    size = _together(peers, target, lambda: _write_shard(target, state, peers))
    total = _together(peers, target, lambda: _complete(directory, state, peers, keep) if peers.rank == 0 else size)
    return Saved(step=state.step, bytes=total or 0, seconds=clock.monotonic() - started)


def _together(peers: Peers, target: Path, action: Callable[[], int | None]) -> int | None:
    """Run one phase on every rank; where it failed on any, undo the step and fail on all."""
    problem, result = "", None
    try:
        result = action()
    except (OSError, SafetensorError, CheckpointError) as error:
        problem = str(error) or type(error).__name__
    if not peers.all_ok(not problem):
        if peers.rank == 0:
            shutil.rmtree(target, ignore_errors=True)
        raise CheckpointError(
            f"{target.name} could not be saved: {problem or 'another rank failed'}",
            hint="free some space where the job keeps its checkpoints; training goes on",
        )
    return result


def _clear(target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)


def _write_shard(target: Path, state: TrainingState, peers: Peers) -> int:
    tensors, entries = _own(state, peers)
    path = target / files.shard_name(peers.rank, peers.world_size)
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    shard = files.make_durable(path)
    commit = Commit(step=state.step, rank=peers.rank, world_size=peers.world_size, shard=shard, tensors=entries)
    files.write_commit(target, commit)
    return shard.bytes


def _own(state: TrainingState, peers: Peers) -> tuple[dict[str, Tensor], dict[str, TensorEntry]]:
    """Return what this rank writes: its box of every sharded tensor, its share of the others, its private ones."""
    owners = state.owners(peers.world_size)
    tensors: dict[str, Tensor] = {}
    entries: dict[str, TensorEntry] = {}
    for name, part in state.parts.items():
        if owners.get(name, peers.rank) != peers.rank:
            continue
        piece = Piece(shard=peers.rank, offset=part.offset, shape=tuple(part.tensor.shape))
        pieces = (piece,) if part.tensor.numel() else ()
        entries[name] = TensorEntry(dtype=part.entry.dtype, shape=part.shape, pieces=pieces)
        if pieces:
            tensors[name] = part.tensor
    for short, tensor in state.private.items():
        name, shape = private_name(peers.rank, short), tuple(tensor.shape)
        whole = Piece(shard=peers.rank, offset=(0,) * len(shape), shape=shape)
        entries[name] = TensorEntry(dtype=dtype_name(tensor.dtype), shape=shape, pieces=(whole,))
        tensors[name] = tensor
    return tensors, entries


def _complete(directory: Path, state: TrainingState, peers: Peers, keep: int) -> int:
    target = files.step_dir(directory, state.step)
    commits = [files.read_commit(target, rank, peers.world_size) for rank in range(peers.world_size)]
    manifest = assemble(commits, state.scalars)
    files.write_manifest(target, manifest)
    files.move_latest(directory, state.step)
    files.retain(directory, state.step, keep)
    return manifest.bytes
