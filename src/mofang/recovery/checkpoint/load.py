"""Load: the newest checkpoint whose every byte is as it was committed, into any layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mofang.clock import Clock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import files
from mofang.recovery.checkpoint.manifest import Manifest, TensorEntry, plan_reads
from mofang.recovery.checkpoint.parts import private_name
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.state import TrainingState

if TYPE_CHECKING:
    from mofang.recovery.checkpoint.remote import Remote

__all__ = ["Loaded", "Refused", "load_checkpoint"]

Refused = Callable[[Path, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What training goes on from; the tensors of the state are in place already.

    Attributes:
        step: the number of finished steps.
        path: where it was read from.
        scalars: JSON values that are alike on every rank.
        seconds: how long it took.
        tier: ``memory``, ``peer`` or ``disk``.
        world_size: of the ranks that saved it; 0 where that is not known.
        private: this rank's own tensors as they were saved, whatever their shape; none for a rank that was not there.
        own: the JSON values of each rank that saved, by rank, so that a data loader can adapt its positions or refuse.
        fence: of a snapshot in memory: the number of the generation that took it.
    """

    step: int
    path: Path
    scalars: Mapping[str, Any]
    seconds: float
    tier: str = "disk"
    world_size: int = 0
    private: Mapping[str, Tensor] = field(default_factory=dict)
    own: tuple[Mapping[str, Any], ...] = ()
    fence: int = 0


def load_checkpoint(
    directory: Path,
    state: TrainingState,
    *,
    peers: Peers,
    clock: Clock,
    on_refused: Refused,
    remote: Remote | None = None,
    at_most: int | None = None,
) -> Loaded | None:
    """Fill the tensors of ``state`` in place; collective. None where no checkpoint was ever committed.

    Rank 0 chooses the step. Each rank checks the SHA-256 sums of its share of the shards before any is used, then reads
    only the slices that it needs. One that is torn, corrupt or does not fit is refused by all ranks, and the one before
    it is tried.

    Args:
        directory: shared by all ranks.
        state: where tensors go; its ``step``, ``scalars`` and ``own`` are not read.
        peers: the ranks that load together.
        clock: times the load.
        on_refused: told the path and the reason, on each rank that found one.
        remote: where checkpoints were uploaded to; it is asked where it has a newer one, or none here can be used.
        at_most: checkpoints of later steps are not to be used; None: all may be.

    Raises:
        CheckpointError: on every rank, where checkpoints were committed and none of them can be used.
    """
    started = clock.monotonic()
    steps = _steps(directory, remote, on_refused) if peers.rank == 0 else iter(())
    tried = 0
    usable = (step for step in steps if at_most is None or step <= at_most)
    while (step := peers.from_first(next(usable, -1))) >= 0:
        tried += 1
        manifest = _attempt(directory, step, state, peers, on_refused)
        if manifest is not None:
            path = files.step_dir(directory, step)
            return Loaded(
                step=step,
                path=path,
                scalars=manifest.scalars,
                seconds=clock.monotonic() - started,
                world_size=manifest.world_size,
                private=_private(path, manifest, peers.rank),
                own=manifest.own,
            )
    if tried:
        raise CheckpointError(
            f"none of {tried} checkpoints in {directory} can be used",
            hint="remove the directory to start from the first step",
        )
    return None


def _steps(directory: Path, remote: Remote | None, on_refused: Refused) -> Iterator[int]:
    """Yield the steps to try, the newest first; what lies elsewhere only is brought here first."""
    files.put_back(directory)
    here = files.candidates(directory)
    if remote is None:
        yield from here
        return
    there = _remote_steps(remote, on_refused)
    newer = [step for step in there if not here or step > here[0]]
    yield from _brought(directory, remote, newer, on_refused)
    yield from here
    yield from _brought(directory, remote, [step for step in there if step not in newer], on_refused)


def _remote_steps(remote: Remote, on_refused: Refused) -> tuple[int, ...]:
    try:
        return remote.candidates()
    except CheckpointError as error:
        on_refused(Path(remote.shown), error.message)
        return ()


def _brought(directory: Path, remote: Remote, steps: list[int], on_refused: Refused) -> Iterator[int]:
    for step in steps:
        try:
            remote.download(directory, step)
        except CheckpointError as error:
            on_refused(Path(remote.shown), error.message)
        else:
            yield step


def _attempt(directory: Path, step: int, state: TrainingState, peers: Peers, on_refused: Refused) -> Manifest | None:
    target = files.step_dir(directory, step)
    manifest, problem = None, ""
    try:
        manifest = files.read_manifest(directory, step)
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


def _private(target: Path, manifest: Manifest, rank: int) -> dict[str, Tensor]:
    """Return a rank's own tensors as they were saved."""
    shards, prefix = _Shards(target, manifest), private_name(rank, "")
    found = {name: entry for name, entry in manifest.tensors.items() if name.startswith(prefix)}
    return {
        name.removeprefix(prefix): shards.read(entry.pieces[0].shard, name, ()).clone()
        for name, entry in found.items()
        if entry.pieces
    }
