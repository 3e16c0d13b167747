"""Save: every rank writes its shard and commits; only then does rank 0 complete the step and move ``latest``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mofang.clock import Clock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import files, parts
from mofang.recovery.checkpoint.complete import complete
from mofang.recovery.checkpoint.manifest import TensorEntry
from mofang.recovery.checkpoint.parts import Contribution, private_name
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.state import TrainingState, dtype_name

__all__ = ["Saved", "save_checkpoint"]

_RUN = 0  # ranks that save together wait for each other, so one name for their drafts will do


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint that every rank has committed. ``bytes`` is this rank's shard on other ranks than 0."""

    step: int
    bytes: int
    seconds: float


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
    draft = files.draft_dir(directory, state.step, _RUN)
    first = peers.rank == 0
    _together(peers, draft, lambda: _begin(directory, draft) if first else None)
    size = _together(peers, draft, lambda: _write(draft, state, peers))
    total = _together(peers, draft, lambda: _finish(directory, draft, state, peers, keep) if first else size)
    return Saved(step=state.step, bytes=total or 0, seconds=clock.monotonic() - started)


def _together(peers: Peers, draft: Path, action: Callable[[], int | None]) -> int | None:
    """Run one phase on every rank; where it failed on any, undo the step and fail on all."""
    problem, result = "", None
    try:
        result = action()
    except (OSError, CheckpointError) as error:
        problem = str(error) or type(error).__name__
    if not peers.all_ok(not problem):
        if peers.rank == 0:
            shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(
            f"{draft.name.split('.')[1]} could not be saved: {problem or 'another rank failed'}",
            hint="free some space where the job keeps its checkpoints; training goes on",
        )
    return result


def _begin(directory: Path, draft: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    files.put_back(directory)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()


def _write(draft: Path, state: TrainingState, peers: Peers) -> int:
    record = parts.write_contribution(draft, _contribution(state, peers))
    parts.commit(draft, record)
    return record.shard.bytes


def _finish(directory: Path, draft: Path, state: TrainingState, peers: Peers, keep: int) -> int:
    return complete(directory, draft, step=state.step, world_size=peers.world_size, scalars=state.scalars, keep=keep)


def _contribution(state: TrainingState, peers: Peers) -> Contribution:
    """Return what this rank writes: its box of every sharded tensor, its share of the others, its private ones."""
    owners = state.owners(peers.world_size)
    part = Contribution(step=state.step, rank=peers.rank, world_size=peers.world_size, own=state.own)
    for name, held in state.parts.items():
        if owners.get(name, peers.rank) == peers.rank:
            part.add(name, held.entry, held.offset, tuple(held.tensor.shape), _bytes(held.tensor))
    for short, tensor in state.private.items():
        shape = tuple(tensor.shape)
        entry = TensorEntry(dtype=dtype_name(tensor.dtype), shape=shape, pieces=())
        part.add(private_name(peers.rank, short), entry, (0,) * len(shape), shape, _bytes(tensor))
    return part


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data)
