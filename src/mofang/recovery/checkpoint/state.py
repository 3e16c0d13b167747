"""The training state that a checkpoint holds, and which part of it one rank has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.manifest import Shape, TensorEntry, balance, chunk

__all__ = ["Part", "TrainingState", "dtype_name", "part_like", "part_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """This rank's box of a global tensor: ``tensor`` is its memory, contiguous, of the box's shape.

    ``replicated`` parts are whole and alike on every rank; one rank writes them.
    """

    tensor: Tensor
    shape: Shape
    offset: Shape
    replicated: bool

    @property
    def entry(self) -> TensorEntry:
        """Type and global shape, without pieces."""
        return TensorEntry(dtype=dtype_name(self.tensor.dtype), shape=self.shape, pieces=())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Everything that training goes on from.

    ``parts`` are global tensors; ``private`` are tensors of this rank alone, such as its random states, and a rank that
    was not there when the checkpoint was made keeps its own; ``scalars`` are JSON values, alike on every rank; ``own``
    are JSON values of this rank alone, such as the position of its data loader.
    """

    step: int
    parts: Mapping[str, Part]
    private: Mapping[str, Tensor] = field(default_factory=dict)
    scalars: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)

    def owners(self, world_size: int) -> dict[str, int]:
        """Return the rank that writes each replicated tensor, balanced by bytes."""
        sizes = {name: part.tensor.nbytes for name, part in self.parts.items() if part.replicated}
        return balance(sizes, world_size)


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def part_of(tensor: Tensor) -> Part:
    """Return this rank's part of a tensor: the local box of a DTensor, or the whole of a plain one."""
    local = tensor.detach()
    if not hasattr(local, "device_mesh"):
        shape = tuple(local.shape)
        return Part(tensor=local, shape=shape, offset=(0,) * len(shape), replicated=True)
    return _local_part(local)


def _local_part(tensor: Any) -> Part:
    """Follow the placements: each sharding cuts what the ones before it left of its dimension.

    FSDP2 over tensor parallelism cuts what tensor parallelism has cut already, though its mesh dimension comes first:
    such a placement (``_StridedShard``) cuts after those to its right, as torch's ``fully_shard`` does.

    Raises:
        CheckpointError: a placement that does not leave a box, or none that is understood.
    """
    mesh = tensor.device_mesh
    offset, extent = [0] * tensor.ndim, list(tensor.shape)
    cuts = list(zip(mesh.shape, mesh.get_coordinate(), tensor.placements, strict=True))
    late = [cut for cut in cuts if hasattr(cut[2], "split_factor")]
    early = [cut for cut in cuts if not hasattr(cut[2], "split_factor")]
    for size, coordinate, placement in early + late:
        if placement.is_partial():
            raise CheckpointError("a tensor of partial sums cannot be kept", hint="redistribute it first")
        if not placement.is_replicate():
            start, length = chunk(extent[placement.dim], size, coordinate)
            offset[placement.dim] += start
            extent[placement.dim] = length
    local = tensor.to_local()
    if tuple(local.shape) != tuple(extent) or len(late) > 1:
        raise CheckpointError(f"a tensor cut by {tensor.placements} cannot be kept: its part is no box that is known")
    sharded = any(not placement.is_replicate() for placement in tensor.placements)
    return Part(tensor=local, shape=tuple(tensor.shape), offset=tuple(offset), replicated=not sharded)


def part_like(tensor: Tensor, part: Part) -> Part:
    """Return the part that ``tensor`` is, where it is cut as ``part`` is: an optimiser's moment of a parameter."""
    return Part(tensor=tensor.detach(), shape=part.shape, offset=part.offset, replicated=part.replicated)
