"""Load: the newest checkpoint whose every byte is as it was committed, into any layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mofang.clock import Clock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import files
from mofang.recovery.checkpoint.manifest import Manifest, TensorEntry, plan_reads
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.save import private_name
from mofang.recovery.checkpoint.state import TrainingState

__all__ = ["Loaded", "load_checkpoint"]

Refused = Callable[[Path, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The checkpoint that training goes on from; its tensors are in place already."""

    step: int
    path: Path
    scalars: Mapping[str, Any]
    seconds: float


def load_checkpoint(
    directory: Path, state: TrainingState, *, peers: Peers, clock: Clock, on_refused: Refused
) -> Loaded | None:
    """Fill the tensors of ``state`` in place; collective. None where no checkpoint was ever committed.

    Rank 0 chooses the step. Each rank checks the SHA-256 sums of its share of the shards before any is used, then reads
    only the slices that it needs. One that is torn, corrupt or does not fit is refused by all ranks, and the one before
    it is tried.

    Args:
        directory: shared by all ranks.
        state: where tensors go; its ``step`` and ``scalars`` are not read.
        peers: the ranks that load together.
        clock: times the load.
        on_refused: told the path and the reason, on each rank that found one.

    Raises:
        CheckpointError: on every rank, where checkpoints were committed and none of them can be used.
    """
    started = clock.monotonic()
    steps = iter(files.candidates(directory) if peers.rank == 0 else ())
    tried = 0
    while (step := peers.from_first(next(steps, -1))) >= 0:
        tried += 1
        target = files.step_dir(directory, step)
        manifest = _attempt(target, state, peers, on_refused)
        if manifest is not None:
            seconds = clock.monotonic() - started
            return Loaded(step=step, path=target, scalars=manifest.scalars, seconds=seconds)
    if tried:
        raise CheckpointError(
            f"none of {tried} checkpoints in {directory} can be used",
            hint="remove the directory to start from the first step",
        )
    return None


def _attempt(target: Path, state: TrainingState, peers: Peers, on_refused: Refused) -> Manifest | None:
    manifest, problem = None, ""
    try:
        manifest = files.read_manifest(target)
        _check_fits(manifest, state)
        for shard in manifest.shards[peers.rank :: peers.world_size]:
            files.verify(target, shard)
    except CheckpointError as error:
        problem = error.message
    if peers.all_ok(not problem) and manifest is not None:
        try:
            _fill(target, manifest, state, peers.rank)
        except (OSError, SafetensorError, CheckpointError) as error:
            problem = str(error)
        if peers.all_ok(not problem):
            return manifest
    if problem:
        on_refused(target, problem)
    return None


def _check_fits(manifest: Manifest, state: TrainingState) -> None:
    shared = {name for name in manifest.tensors if not name.startswith("rank-")}
    if differing := sorted(shared ^ set(state.parts)):
        raise CheckpointError(f"the checkpoint is of another model: {differing[0]} is in one of them only")
    for name, part in state.parts.items():
        have = manifest.tensors[name]
        if (have.dtype, have.shape) != (part.entry.dtype, part.entry.shape):
            raise CheckpointError(
                f"the checkpoint is of another model: {name} is {have.dtype}{list(have.shape)}, "
                f"not {part.entry.dtype}{list(part.entry.shape)}"
            )


class _Shards:
    """Open shard files, mapped into memory: only the pages of the slices that are read are touched."""

    def __init__(self, target: Path, manifest: Manifest) -> None:
        self._target = target
        self._names = [shard.file for shard in manifest.shards]
        self._open: dict[int, Any] = {}

    def read(self, shard: int, name: str, source: tuple[slice, ...]) -> Tensor:
        if shard not in self._open:
            self._open[shard] = safe_open(self._target / self._names[shard], framework="pt", device="cpu")
        file = self._open[shard]
        tensor: Tensor = file.get_slice(name)[source] if source else file.get_tensor(name)
        return tensor


def _fill(target: Path, manifest: Manifest, state: TrainingState, rank: int) -> None:
    shards = _Shards(target, manifest)
    for name, part in state.parts.items():
        _fill_box(shards, name, manifest.tensors[name], part.tensor, part.offset)
    for short, tensor in state.private.items():
        name = private_name(rank, short)
        entry = manifest.tensors.get(name)
        if entry is not None and entry.shape == tuple(tensor.shape):
            _fill_box(shards, name, entry, tensor, (0,) * tensor.ndim)


@torch.no_grad()
def _fill_box(shards: _Shards, name: str, entry: TensorEntry, tensor: Tensor, offset: tuple[int, ...]) -> None:
    for read in plan_reads(name, entry, offset, tuple(tensor.shape)):
        tensor[read.target].copy_(shards.read(read.shard, name, read.source))
