"""Nested values (dicts, lists, numbers, small tensors) as JSON and back, without pickle. Large tensors stay outside.

What JSON has no word for is written as ``{"$": kind, "v": content}``: tuples, bytes, infinities, counters, dicts whose
keys are not text, NumPy arrays, tensors. A tensor of up to 16 KiB, such as a generator's state, goes into the JSON, so
that it may come, go and change its size; a larger one is named and kept with the other tensors of the state.
"""

from __future__ import annotations

import base64
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mofang.errors import CheckpointError

__all__ = ["decode_value", "encode_value"]

_INLINE_BYTES = 16 << 10
_KIND, _CONTENT = "$", "v"


def encode_value(value: Any, path: str, tensors: dict[str, Tensor] | None) -> Any:
    """Return the value as JSON; tensors too large for it are added to ``tensors`` under their paths.

    Args:
        value: what to write.
        path: what to call it, where it must be refused, and its tensors.
        tensors: where large tensors and DTensors go; without it they go into the JSON too.

    Raises:
        CheckpointError: something in it is neither JSON nor a tensor.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, Tensor):
        return _tensor(value.detach(), path, tensors)
    for kind, encoder in _ENCODERS.items():
        if isinstance(value, kind) and not hasattr(value, "_fields"):  # a named tuple would come back as a plain one
            return encoder(value, path, tensors)
    if (numpy := sys.modules.get("numpy")) is not None:
        if isinstance(value, numpy.generic):
            return encode_value(value.item(), path, tensors)
        if isinstance(value, numpy.ndarray) and value.dtype != object:
            return _special("numpy", _tensor(torch.from_numpy(value.copy()), path, tensors))
    raise CheckpointError(
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which a checkpoint cannot keep",
        hint="keep tensors and JSON values; give objects with state_dict() and load_state_dict() an entry of their own",
    )


def decode_value(encoded: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that was encoded; ``tensors`` are those that were too large for JSON.

    Raises:
        CheckpointError: it is not what ``encode_value`` wrote.
    """
    if isinstance(encoded, list):
        return [decode_value(item, tensors) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if _KIND not in encoded:
        return {key: decode_value(item, tensors) for key, item in encoded.items()}
    try:
        return _DECODERS[encoded[_KIND]](encoded[_CONTENT], tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"a value of kind {encoded[_KIND]!r} cannot be read: {error}") from error


def _special(kind: str, content: Any) -> dict[str, Any]:
    return {_KIND: kind, _CONTENT: content}


def _number(value: float) -> Any:
    if isinstance(value, int):
        return int(value)
    return float(value) if math.isfinite(value) else _special("float", str(float(value)))


def _items(value: Mapping[Any, Any], path: str, tensors: dict[str, Tensor] | None) -> Any:
    plain = all(isinstance(key, str) for key in value) and _KIND not in value
    if plain and not isinstance(value, Counter):
        return {str(key): encode_value(item, f"{path}/{key}", tensors) for key, item in value.items()}
    pairs = [
        [encode_value(key, path, tensors), encode_value(item, f"{path}/{key}", tensors)] for key, item in value.items()
    ]
    return _special("counter" if isinstance(value, Counter) else "dict", pairs)


def _list(value: Any, path: str, tensors: dict[str, Tensor] | None) -> list[Any]:
    return [encode_value(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]


def _set(value: Any, path: str, tensors: dict[str, Tensor] | None) -> dict[str, Any]:
    return _special("set", _list(sorted(value, key=repr), path, tensors))  # in one order on every rank


def _tensor(value: Tensor, path: str, tensors: dict[str, Tensor] | None) -> dict[str, Any]:
    if tensors is not None and (value.nbytes > _INLINE_BYTES or hasattr(value, "device_mesh")):
        tensors[path] = value
        return _special("part", path)
    flat = value.cpu().contiguous().reshape(-1).view(torch.uint8) if value.numel() else torch.empty(0)
    text = base64.b64encode(flat.numpy().tobytes()).decode()
    return _special("tensor", [str(value.dtype).removeprefix("torch."), list(value.shape), text])


_ENCODERS: dict[type, Callable[[Any, str, dict[str, Tensor] | None], Any]] = {
    list: _list,
    tuple: lambda value, path, tensors: _special("tuple", _list(value, path, tensors)),
    set: _set,
    frozenset: _set,
    Mapping: _items,
    bytes: lambda value, _path, _tensors: _special("bytes", base64.b64encode(value).decode()),
}


def _read_tensor(content: Any, _tensors: Mapping[str, Tensor]) -> Tensor:
    name, shape, text = content
    dtype = getattr(torch, name)
    data = bytearray(base64.b64decode(text))
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


_DECODERS: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "float": lambda content, _: float(content),
    "tuple": lambda content, tensors: tuple(decode_value(item, tensors) for item in content),
    "set": lambda content, tensors: {decode_value(item, tensors) for item in content},
    "dict": lambda content, tensors: {decode_value(k, tensors): decode_value(v, tensors) for k, v in content},
    "counter": lambda content, tensors: Counter(
        {decode_value(k, tensors): decode_value(v, tensors) for k, v in content}
    ),
    "bytes": lambda content, _: base64.b64decode(content),
    "numpy": lambda content, tensors: decode_value(content, tensors).numpy(),
    "tensor": _read_tensor,
    "part": lambda content, tensors: tensors[content],
}
