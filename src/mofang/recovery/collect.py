"""A program's own objects as a ``TrainingState``, and back.

What is understood: modules (plain, DDP, FSDP2, compiled), torch optimizers, whatever has ``state_dict`` and
``load_state_dict`` (schedulers, gradient scalers, torch's ``Stateful``, ``StatefulDataLoader``), dicts of tensors and
JSON values, and the random generators of the process. No pickle: anything else is refused by name.

Alike or of one rank alone? As in torch's distributed checkpoints, plain tensors and values are taken to be alike on
every rank, so one copy of them is kept. Objects that can be iterated over are data loaders: each rank keeps its own
position. ``PerRank`` says the same of any other object.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mofang.errors import CheckpointError, UsageError
from mofang.recovery.checkpoint.randomness import random_states, restore_random_states
from mofang.recovery.checkpoint.state import Part, TrainingState, part_of
from mofang.recovery.moments import Moments, part_of_moment
from mofang.recovery.values import decode_value, encode_value

__all__ = ["Collected", "PerRank", "collect", "digest", "unwrapped"]

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")  # what torch.compile and recomputation put into names
_REFUSED = {
    "FullyShardedDataParallel": "use fully_shard (FSDP2): the flat parameters of FSDP1 cannot be told apart",
    "ZeroRedundancyOptimizer": "use fully_shard (FSDP2), or a plain optimizer",
    "DeepSpeedEngine": "use DeepSpeed's own checkpoints, or fully_shard (FSDP2)",
}


@dataclass(frozen=True, slots=True)
class PerRank:
    """Marks an object with ``state_dict`` and ``load_state_dict`` whose state differs from rank to rank."""

    value: Any


@dataclass(slots=True)
class _Draft:
    """What is being gathered."""

    parts: dict[str, Part] = field(default_factory=dict)
    scalars: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)


class _Entry(Protocol):
    """One entry of the program's state."""

    def gather(self, draft: _Draft, *, target: bool) -> None:
        """Add what there is to keep; as the target of a restore, only where things go."""

    def put_back(self, found: _Draft) -> None:
        """Take over what is not in place yet."""


class _Cache:
    """Parts of tensors that have not moved since the last look."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Tensor, int, Part]] = {}

    def part(self, name: str, tensor: Tensor, like: Tensor | None = None) -> Part:
        address = getattr(tensor, "_local_tensor", tensor).data_ptr()
        held = self._held.get(name)
        if held is None or held[0] is not tensor or held[1] != address:
            held = (tensor, address, part_of(tensor) if like is None else part_of_moment(tensor, like))
            self._held[name] = held
        return held[2]


class _Module:
    def __init__(self, key: str, module: nn.Module) -> None:
        self._key, self._module, self._cache = key, module, _Cache()

    def names(self) -> dict[int, str]:
        """Return the name of every parameter by its identity."""
        return {id(tensor): f"{self._key}/{_clean(name)}" for name, tensor in self._module.named_parameters()}

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._module.named_parameters()
        seen: set[int] = set()
        for prefix, module in self._module.named_modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in module._non_persistent_buffers_set and id(buffer) not in seen:
                    seen.add(id(buffer))
                    yield f"{prefix}.{name}" if prefix else name, buffer

    def _extras(self) -> Iterator[tuple[str, nn.Module]]:
        for name, module in self._module.named_modules():
            if type(module).get_extra_state is not nn.Module.get_extra_state:
                yield _clean(name), module

    def gather(self, draft: _Draft, *, target: bool) -> None:
        _reshard(self._module)
        for name, tensor in self._tensors():
            if tensor.is_meta or nn.parameter.is_lazy(tensor):
                raise CheckpointError(
                    f"{self._key}/{_clean(name)} has no memory yet", hint="initialise the module first"
                )
            draft.parts[f"{self._key}/{_clean(name)}"] = self._cache.part(name, tensor)
        extras = {} if target else {name: module.get_extra_state() for name, module in self._extras()}
        if extras:
            draft.scalars[self._key] = encode_value(extras, self._key, None)

    def put_back(self, found: _Draft) -> None:
        saved = decode_value(found.scalars.get(self._key, {}), {})
        for name, module in self._extras():
            if name in saved:
                module.set_extra_state(saved[name])


class _Optimizer:
    def __init__(self, key: str, moments: Moments) -> None:
        self._key, self._moments, self._cache = key, moments, _Cache()

    def gather(self, draft: _Draft, *, target: bool) -> None:
        if target:
            self._moments.prepare()
        else:
            draft.scalars[self._key] = self._moments.scalars()
        for name, tensor, parameter in self._moments.tensors():
            draft.parts[name] = self._cache.part(name, tensor, parameter)

    def put_back(self, found: _Draft) -> None:
        self._moments.put_back(found.scalars[self._key])

    def abandon(self) -> None:
        self._moments.abandon()


class _Alike:
    """An object with ``state_dict`` whose state is alike on every rank."""

    def __init__(self, key: str, value: Any) -> None:
        self._key, self._value = key, value

    def gather(self, draft: _Draft, *, target: bool) -> None:
        tensors: dict[str, Tensor] = {}
        tree = encode_value(self._value.state_dict(), self._key, tensors)
        draft.parts.update({name: part_of(tensor) for name, tensor in tensors.items()})
        if not target:
            draft.scalars[self._key] = tree

    def put_back(self, found: _Draft) -> None:
        tensors = {name: part.tensor for name, part in found.parts.items()}
        self._value.load_state_dict(decode_value(found.scalars[self._key], tensors))


class _Private:
    """An object with ``state_dict`` whose state is this rank's alone; all of it is JSON."""

    def __init__(self, key: str, value: Any) -> None:
        self._key, self._value = key, value

    def gather(self, draft: _Draft, *, target: bool) -> None:
        if not target:
            draft.own[self._key] = encode_value(self._value.state_dict(), self._key, None)

    def put_back(self, found: _Draft) -> None:
        if self._key not in found.own:  # this rank was not there when the checkpoint was made
            return
        self._value.load_state_dict(decode_value(found.own[self._key], {}))
        if hasattr(self._value, "__iter__"):
            # A loader draws a seed from torch's generator when its iterator is made: it is made now, before the
            # generators are put back, because the undisturbed program had made it long ago.
            self._value.state_dict()


class _Values:
    """A dict of tensors and JSON values, changed in place."""

    def __init__(self, key: str, value: dict[str, Any]) -> None:
        self._key, self._value = key, value

    def gather(self, draft: _Draft, *, target: bool) -> None:
        tensors: dict[str, Tensor] = {}
        tree = encode_value(self._value, self._key, tensors)
        draft.parts.update({name: part_of(tensor) for name, tensor in tensors.items()})
        if not target:
            draft.scalars[self._key] = tree

    def put_back(self, found: _Draft) -> None:
        tensors = {name: part.tensor for name, part in found.parts.items()}
        _assign(self._value, decode_value(found.scalars[self._key], tensors))


class Collected:
    """The objects of one program.

    Args:
        entries: by name.
    """

    def __init__(self, entries: Mapping[str, _Entry]) -> None:
        self._entries = entries
        self._target: TrainingState | None = None

    def state(self, step: int) -> TrainingState:
        """Return everything that training goes on from after ``step`` steps; tensors are the live ones.

        Raises:
            CheckpointError: something in it cannot be kept.
        """
        draft = self._gather(target=False)
        return TrainingState(
            step=step, parts=draft.parts, private=random_states(), scalars=draft.scalars, own=draft.own
        )

    def target(self) -> TrainingState:
        """Return where a restore puts the tensors; ``put_back`` or ``abandon`` has to follow."""
        self._target = TrainingState(step=0, parts=self._gather(target=True).parts)
        return self._target

    def put_back(self, scalars: Mapping[str, Any], own: Mapping[str, Any], private: Mapping[str, Tensor]) -> None:
        """Give every object the rest of its state; the random generators come last.

        Args:
            scalars: JSON values that are alike on every rank.
            own: those of this rank; none where it was not there when the checkpoint was made.
            private: this rank's own tensors.

        Raises:
            CheckpointError: the checkpoint lacks what an object needs.
        """
        if self._target is None:
            raise CheckpointError("nothing was asked to be restored")
        found = _Draft(parts=dict(self._target.parts), scalars=dict(scalars), own=dict(own))
        for key, entry in self._entries.items():
            try:
                entry.put_back(found)
            except KeyError as error:
                raise CheckpointError(f"the checkpoint has nothing for {key!r}: {error} is missing") from error
        restore_random_states(private)
        self._target = None

    def abandon(self) -> None:
        """Undo what ``target`` prepared: there was nothing to restore."""
        self._target = None
        for entry in self._entries.values():
            if isinstance(entry, _Optimizer):
                entry.abandon()

    def _gather(self, *, target: bool) -> _Draft:
        draft = _Draft()
        for entry in self._entries.values():
            entry.gather(draft, target=target)
        return draft


def collect(state: Mapping[str, Any]) -> Collected:
    """Return what is to be kept of a program's objects.

    Raises:
        UsageError: an object cannot be kept, or has a name that means something else.
        CheckpointError: an optimizer has a parameter that none of the modules has.
    """
    for key in state:
        if not key or "/" in key or key == "random" or key.startswith("rank-"):
            raise UsageError(f"state has an entry {key!r}", hint="choose another name: letters, digits and _")
    modules = {key: _Module(key, unwrapped(value)) for key, value in state.items() if isinstance(value, nn.Module)}
    names: dict[int, str] = {}
    for module in modules.values():
        names = module.names() | names
    return Collected({key: modules.get(key) or _entry(key, value, names) for key, value in state.items()})


def digest(state: TrainingState) -> int:
    """Return a number of 62 bits over what must be alike on every rank: names, shapes and JSON values."""
    alike = [
        [name, part.shape, str(part.tensor.dtype)] for name, part in sorted(state.parts.items()) if part.replicated
    ]
    text = json.dumps([alike, state.scalars], sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside DDP or a compiled one.

    Raises:
        UsageError: it is wrapped by something whose tensors cannot be told apart.
    """
    _check_refused(module)
    while isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel) or hasattr(module, "_orig_mod"):
        inner = module._orig_mod if hasattr(module, "_orig_mod") else module.module
        module = inner  # type: ignore[assignment]
        _check_refused(module)
    return module


def _check_refused(value: object) -> None:
    for kind in type(value).__mro__:
        if kind.__name__ in _REFUSED:
            raise UsageError(f"{kind.__name__} is not supported", hint=_REFUSED[kind.__name__])


def _entry(key: str, value: Any, names: Mapping[int, str]) -> _Entry:
    _check_refused(value)
    if isinstance(value, Optimizer):
        return _Optimizer(key, Moments(key, value, names))
    inner = value.value if isinstance(value, PerRank) else value
    if isinstance(inner, dict) and not isinstance(value, PerRank):
        return _Values(key, inner)
    if not (hasattr(inner, "state_dict") and hasattr(inner, "load_state_dict")):
        raise UsageError(
            f"state[{key!r}] is of type {type(inner).__name__}, which cannot be put back in place",
            hint="put values and tensors into a dict; give objects state_dict() and load_state_dict()",
        )
    if isinstance(value, PerRank) or hasattr(inner, "__iter__"):
        return _Private(key, inner)
    return _Alike(key, inner)


def _clean(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.rstrip(".")


def _reshard(module: nn.Module) -> None:
    """Let FSDP2 register its sharded parameters: after a forward pass alone those of the root are whole."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and hasattr(fsdp, "FSDPModule"):
        for part in module.modules():
            if isinstance(part, fsdp.FSDPModule):
                part.reshard()


@torch.no_grad()
def _assign(live: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Make ``live`` equal to ``saved``; dicts and tensors that are there stay the same objects."""
    for key in [key for key in live if key not in saved]:
        del live[key]
    for key, value in saved.items():
        held = live.get(key)
        if isinstance(held, dict) and isinstance(value, dict):
            _assign(held, value)
        elif isinstance(held, Tensor) and isinstance(value, Tensor) and held.shape == value.shape:
            held.copy_(value)
        else:
            live[key] = value
