"""Data parallelism: what a rank keeps of every parameter, and how gradients become their mean over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, distributed, nn

from mofang.recovery.checkpoint.state import Part, part_of

__all__ = ["Built", "DataParallel", "FullySharded", "Replicated"]

M_co = TypeVar("M_co", bound=nn.Module, covariant=True)

_BUCKET_BYTES = 25 << 20
_ALIGNMENT = 16  # elements: every gradient starts on a cache line


class DataParallel(Protocol):
    """What the training loop needs of either layout."""

    parts: Mapping[str, Part]
    loss_scale: float  # times every loss before its backward pass, beside the accumulation

    def expect(self, last: bool) -> None:
        """Say whether the next backward pass is the last of its step: then gradients are averaged."""

    def gradients(self) -> Mapping[str, Tensor]:
        """Return this rank's part of the mean gradients, once they have arrived."""

    def norm(self) -> Tensor:
        """Return the norm of the whole mean gradient, alike on every rank."""

    def clear(self) -> None:
        """Make the gradients zero."""

    def align(self) -> None:
        """Take rank 0's values of what every rank holds: processors may differ in the last bit of a random number."""


@dataclass(frozen=True, slots=True)
class Built(Generic[M_co]):
    """A model on its device, and its layout over ranks."""

    model: M_co
    layout: DataParallel

    @property
    def params(self) -> int:
        """The number of parameters that are trained, those of all ranks together."""
        return sum(math.prod(part.shape) for part in self.layout.parts.values())


class Replicated(DataParallel):
    """Every rank holds everything; buckets of gradients are summed while the backward pass goes on (DDP).

    Frozen parameters have no part in it. Not with a parameter whose gradient a backward pass may leave out.

    Gradients live in one flat buffer, filled from its start as the backward pass runs from the last parameter to the
    first, so a bucket is a slice of it and nothing is copied. ``DistributedDataParallel`` does the same reduction, but
    its construction loads torch's compiler, which doubles the time from a kill to the next step.
    """

    def __init__(self, model: nn.Module) -> None:
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.parts = {name: part_of(parameter) for name, parameter in named.items()}
        self._world_size = distributed.get_world_size() if distributed.is_initialized() else 1
        self.loss_scale = 1.0 / self._world_size
        self._flat, slices = _flat_gradients(named)
        self._views = {name: self._flat[place].view_as(named[name]) for name, place in slices.items()}
        self._last = False
        self._pending: list[distributed.Work] = []
        for name, parameter in named.items():
            parameter.grad = self._views[name]
        if self._world_size > 1:
            self._hook_buckets(named, slices)

    def _hook_buckets(self, named: Mapping[str, nn.Parameter], slices: Mapping[str, slice]) -> None:
        for names in _buckets(slices, self._flat.element_size()):
            whole = self._flat[slices[names[0]].start : slices[names[-1]].stop]
            arrive = self._countdown(len(names), whole)
            for name in names:
                named[name].register_post_accumulate_grad_hook(arrive)  # type: ignore[no-untyped-call]

    def _countdown(self, size: int, bucket: Tensor) -> Callable[[Tensor], None]:
        missing = size

        def arrive(_: Tensor) -> None:
            nonlocal missing
            if not self._last:
                return
            missing -= 1
            if missing == 0:
                missing = size
                work = distributed.all_reduce(bucket, async_op=True)
                if work is not None:
                    self._pending.append(work)

        return arrive

    def expect(self, last: bool) -> None:
        """Start the reduction of each bucket in the last backward pass of a step only."""
        self._last = last

    def gradients(self) -> Mapping[str, Tensor]:
        """Wait for the buckets."""
        for work in self._pending:
            work.wait()
        self._pending.clear()
        return self._views

    def norm(self) -> Tensor:
        """Return the norm of the flat buffer; the padding is zero."""
        norm: Tensor = torch.linalg.vector_norm(self._flat)
        return norm

    def clear(self) -> None:
        """Zero the flat buffer."""
        self._flat.zero_()

    def align(self) -> None:
        """Broadcast every parameter that is trained."""
        if distributed.is_initialized():
            for part in self.parts.values():
                distributed.broadcast(part.tensor, src=0)


def _flat_gradients(named: Mapping[str, nn.Parameter]) -> tuple[Tensor, dict[str, slice]]:
    """Return a zeroed buffer and each gradient's place in it, in the order that the backward pass makes them."""
    places: dict[str, slice] = {}
    end = 0
    for name in reversed(list(named)):
        size = named[name].numel()
        places[name] = slice(end, end + size)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    sample = next(iter(named.values()))
    return torch.zeros(end, dtype=sample.dtype, device=sample.device), places


def _buckets(slices: Mapping[str, slice], element_size: int) -> list[list[str]]:
    """Return names in the order of their places, cut wherever a bucket is full."""
    buckets: list[list[str]] = [[]]
    held = 0
    for name, place in slices.items():
        if held >= _BUCKET_BYTES:
            buckets.append([])
            held = 0
        buckets[-1].append(name)
        held += (place.stop - place.start) * element_size
    return buckets


class FullySharded(DataParallel):
    """Weights, gradients and moments are cut over ranks, one block at a time (FSDP2, ZeRO-3, arXiv:1910.02054).

    Weights are kept and reduced in float32 and gathered in ``dtype``. The model must have no memory yet when it is cut,
    so that no rank ever holds all of it.
    """

    def __init__(self, model: nn.Module, *, blocks: nn.ModuleList, dtype: torch.dtype, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415 - a second of start-up time
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # noqa: PLC0415

        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        self._model = fully_shard(model, mesh=mesh, mp_policy=policy)
        self._named = dict(model.named_parameters())
        self.loss_scale = 1.0  # the reduction divides by the world size

    @property
    def parts(self) -> Mapping[str, Part]:  # type: ignore[override]
        """This rank's shard of every parameter."""
        return {name: part_of(parameter) for name, parameter in self._named.items()}

    def expect(self, last: bool) -> None:
        """Reduce and scatter in the last backward pass of a step only."""
        self._model.set_requires_gradient_sync(last)

    def gradients(self) -> Mapping[str, Tensor]:
        """Return the local shards."""
        return {name: parameter.grad.to_local() for name, parameter in self._named.items()}  # type: ignore[union-attr]

    def norm(self) -> Tensor:
        """Sum the squares of every rank's shards."""
        local = [gradient for gradient in self.gradients().values() if gradient.numel()]
        squares = torch.nn.utils.get_total_norm(local).square()
        distributed.all_reduce(squares)
        return squares.sqrt()

    def clear(self) -> None:
        """Let go of the gradients."""
        for parameter in self._named.values():
            parameter.grad = None

    def align(self) -> None:
        """Leave the shards as they are: no two ranks hold the same value."""
