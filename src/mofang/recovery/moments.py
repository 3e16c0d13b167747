"""A torch optimizer's state: tensors under the names of their parameters, numbers of its groups as JSON.

Optimizers make their moments at the first step, but a restore needs the memory before it. So what the first step would
make is learnt from a shadow of the optimizer that steps a throw-away parameter of the same shape; the real one is not
touched. A parameter that has had no gradient yet has no state: its place in the checkpoint is kept with zeros, so that
the layout never changes, and it is stateless again after a restore.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.state import Part, part_like, part_of
from mofang.recovery.values import decode_value, encode_value

__all__ = ["Moments", "part_of_moment"]

_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


class Moments:
    """The state of one optimizer.

    Args:
        key: its name in the state.
        optimizer: of torch, or one derived from it.
        names: of the parameters, by their identity.

    Raises:
        CheckpointError: it holds a parameter without a name.
    """

    def __init__(self, key: str, optimizer: Optimizer, names: Mapping[int, str]) -> None:
        self._key, self._optimizer, self._names = key, optimizer, names
        self._shapes: dict[Any, dict[str, Any]] = {}
        self._zeros: dict[str, dict[str, Any]] = {}
        self._made: list[Tensor] = []
        for _, parameter in self._parameters():
            self._name(parameter)

    def _parameters(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        return ((group, parameter) for group in self._optimizer.param_groups for parameter in group["params"])

    def _name(self, parameter: Tensor) -> str:
        try:
            return self._names[id(parameter)]
        except KeyError:
            raise CheckpointError(
                f"the optimizer {self._key!r} has a parameter of shape {list(parameter.shape)} that no module has",
                hint="give the module it belongs to in the state as well, and make the optimizer after sharding it",
            ) from None

    def tensors(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Return the name, the tensor and the parameter of every moment; those that are not there yet are zeros."""
        for group, parameter in self._parameters():
            for slot, value in self._slots(group, parameter).items():
                if isinstance(value, Tensor):
                    yield f"{self._key}/{self._name(parameter)}/{slot}", value, parameter

    def _slots(self, group: dict[str, Any], parameter: Tensor) -> Mapping[str, Any]:
        held: Mapping[str, Any] | None = self._optimizer.state.get(parameter)
        if held:
            self._zeros.pop(self._name(parameter), None)
            return held
        if not parameter.requires_grad:
            return {}
        name = self._name(parameter)
        if name not in self._zeros:
            self._zeros[name] = self._fresh(group, parameter)
        return self._zeros[name]

    def scalars(self) -> dict[str, Any]:
        """Return the JSON values: those of the groups, of single parameters, and who has no state yet."""
        values: dict[str, Any] = {}
        absent: list[str] = []
        for _, parameter in self._parameters():
            name, held = self._name(parameter), self._optimizer.state.get(parameter)
            if not held:
                absent.append(name)
                continue
            plain = {slot: value for slot, value in held.items() if not isinstance(value, Tensor)}
            if plain:
                values[name] = encode_value(plain, f"{self._key}/{name}", None)
        groups = [
            encode_value({name: value for name, value in group.items() if name != "params"}, self._key, None)
            for group in self._optimizer.param_groups
        ]
        return {"groups": groups, "values": values, "absent": absent}

    def prepare(self) -> None:
        """Make what the first step would make, so that a restore finds its place."""
        for group, parameter in self._parameters():
            if parameter.requires_grad and not self._optimizer.state.get(parameter):
                self._optimizer.state[parameter] = self._fresh(group, parameter)
                self._made.append(parameter)

    def abandon(self) -> None:
        """Undo ``prepare``: there was nothing to restore."""
        for parameter in self._made:
            self._optimizer.state.pop(parameter, None)
        self._made.clear()

    def put_back(self, scalars: Mapping[str, Any]) -> None:
        """Take over the JSON values of a checkpoint; the tensors are in place.

        Raises:
            CheckpointError: the groups are other ones.
        """
        groups = self._optimizer.param_groups
        if len(scalars["groups"]) != len(groups):
            raise CheckpointError(
                f"the optimizer {self._key!r} has {len(groups)} parameter groups, not {len(scalars['groups'])} as saved"
            )
        for group, saved in zip(groups, scalars["groups"], strict=True):
            _take_over(group, decode_value(saved, {}))
        absent, values = set(scalars["absent"]), scalars["values"]
        for _, parameter in self._parameters():
            name = self._name(parameter)
            if name in absent:
                self._optimizer.state.pop(parameter, None)
            elif name in values:
                self._optimizer.state[parameter].update(decode_value(values[name], {}))
        self._made.clear()

    def _fresh(self, group: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
        layout = (str(parameter.device), str(getattr(parameter, "placements", "")))
        kind = (id(group), tuple(parameter.shape), parameter.dtype, layout)
        if kind not in self._shapes:
            self._shapes[kind] = self._first_step(group, parameter)
        return {
            slot: torch.zeros_like(value) if isinstance(value, Tensor) else copy.deepcopy(value)
            for slot, value in self._shapes[kind].items()
        }

    def _first_step(self, group: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
        """Let a shadow of the optimizer step a parameter of zeros with a gradient of zeros; return the state it makes.

        The shadow has the real one's attributes, but neither its state nor its hooks, nor the counting wrapper that
        learning-rate schedulers put around ``step``.
        """
        shadow = object.__new__(type(self._optimizer))
        shadow.__dict__.update({name: value for name, value in vars(self._optimizer).items() if name != "step"})
        shadow.__dict__.update({name: OrderedDict() for name in _HOOKS})
        stand_in = torch.zeros_like(parameter).detach().requires_grad_()
        stand_in.grad = torch.zeros_like(stand_in)
        shadow.state = defaultdict(dict)
        shadow.param_groups = [{**group, "params": [stand_in]}]
        try:
            type(self._optimizer).step(shadow)
        except (TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"what {type(self._optimizer).__name__} keeps for a parameter cannot be found out: {error}",
                hint="use an optimizer whose step() takes no closure, or take one step before restore()",
            ) from error
        return dict(shadow.state[stand_in])


def part_of_moment(tensor: Tensor, parameter: Tensor) -> Part:
    """Return the part that a moment is: its own cut where it is a DTensor, its parameter's where it is alike."""
    local = getattr(parameter, "_local_tensor", None)
    if local is not None and not hasattr(tensor, "device_mesh") and tensor.ndim and tensor.shape == local.shape:
        return part_like(tensor, part_of(parameter))
    return part_of(tensor)


@torch.no_grad()
def _take_over(group: dict[str, Any], saved: Mapping[str, Any]) -> None:
    for name, value in saved.items():
        held = group.get(name)
        if isinstance(held, Tensor):
            held.copy_(value) if isinstance(value, Tensor) else held.fill_(value)
        else:
            group[name] = value
