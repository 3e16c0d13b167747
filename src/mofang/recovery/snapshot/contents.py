"""What of a training state goes into one rank's slot, and where its bytes are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.state import TrainingState, dtype_name
from mofang.recovery.snapshot.layout import Box, Plan

__all__ = ["boxes_of", "sources_of", "view", "views_of"]


def boxes_of(state: TrainingState, index: int, ranks: int) -> dict[str, Box]:
    """Return what one rank stores: its boxes, its share of the replicated tensors of its node, its private tensors.

    Args:
        state: of this rank.
        index: of this rank among those of its node.
        ranks: number of ranks of the node, which hold one whole copy together.

    Raises:
        CheckpointError: a private tensor has the name of another one.
    """
    if twice := sorted(set(state.parts) & set(state.private)):
        raise CheckpointError(f"{twice[0]} is in the state twice")
    owners = state.owners(ranks)
    boxes = {
        name: Box(
            dtype=dtype_name(part.tensor.dtype),
            shape=part.shape,
            offset=part.offset,
            extent=tuple(part.tensor.shape),
            replicated=part.replicated,
        )
        for name, part in state.parts.items()
        if owners.get(name, index) == index
    }
    return boxes | {name: _private(tensor) for name, tensor in state.private.items()}


def _private(tensor: Tensor) -> Box:
    shape = tuple(tensor.shape)
    return Box(dtype=dtype_name(tensor.dtype), shape=shape, offset=(0,) * len(shape), extent=shape, private=True)


def sources_of(state: TrainingState, boxes: Mapping[str, Box]) -> list[Tensor]:
    """Return the tensors to copy, those with bytes, in the order of the boxes.

    Raises:
        CheckpointError: the state is no longer the one that the boxes were made of.
    """
    sources = []
    for name, box in boxes.items():
        if not box.private:
            part = state.parts.get(name)
            tensor = part.tensor if part is not None else None
        else:
            tensor = state.private.get(name)
        if tensor is None or tuple(tensor.shape) != box.extent:
            raise CheckpointError(f"{name} has changed its shape since the first snapshot")
        if tensor.numel():
            sources.append(tensor)
    return sources


def views_of(slot: memoryview, plan: Plan) -> list[Tensor]:
    """Return a tensor for every box with bytes, in the order of the boxes; they share the slot's memory."""
    return [view(slot, plan, name) for name, box in plan.boxes.items() if box.nbytes]


def view(slot: memoryview, plan: Plan, name: str) -> Tensor:
    """Return one tensor of a slot, which shares its memory; an empty one has memory of its own."""
    box, (start, _) = plan.boxes[name], plan.places[name]
    dtype: torch.dtype = getattr(torch, box.dtype)
    if not box.nbytes:
        return torch.empty(box.extent, dtype=dtype)
    elements = box.nbytes // dtype.itemsize
    return torch.frombuffer(slot, dtype=dtype, count=elements, offset=start).view(box.extent)
