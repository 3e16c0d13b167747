"""What lies in a slot of an arena: one rank's part of the training state, byte for byte a safetensors file. No torch.

So whoever holds the bytes (the rank, its peer, the durable tier) can read or store them without the program that made
them. The header has room to spare: what changes its length from one snapshot to the next, such as the position of a
data loader, is in it, while every tensor keeps its place.

Format: https://github.com/huggingface/safetensors (format section); the header may end in spaces.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mofang.errors import CheckpointError

__all__ = ["Box", "Header", "Image", "Meta", "Plan", "element", "plan_slot", "read_slot", "write_header"]

Shape = tuple[int, ...]

# torch's name of an element type: its name in the format, its bytes.
_TYPES = {
    "float64": ("F64", 8), "float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2),
    "float8_e4m3fn": ("F8_E4M3", 1), "float8_e5m2": ("F8_E5M2", 1),
    "int64": ("I64", 8), "int32": ("I32", 4), "int16": ("I16", 2), "int8": ("I8", 1),
    "uint64": ("U64", 8), "uint32": ("U32", 4), "uint16": ("U16", 2), "uint8": ("U8", 1), "bool": ("BOOL", 1),
}  # fmt: skip
_LENGTH = 8  # bytes of the header's own length
_ALIGNMENT = 4096  # where the data begins, so that pages of tensors can be mapped
_ROOM = 256 << 10  # for what changes its length
_META = "mofang"
_MARK = "\x00what changes\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One tensor in a slot: a box (``offset``, ``extent``) of a global tensor of ``shape``; sizes are elements.

    ``replicated``: every rank has the whole of it and only one of the node's ranks stores it. ``private``: it is of
    this rank alone, such as a random state.
    """

    dtype: str
    shape: Shape
    offset: Shape
    extent: Shape
    replicated: bool = False
    private: bool = False

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.extent) * element(self.dtype)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """Whose part of which step it is. ``scalars`` are alike on every rank, ``own`` are this rank's; JSON values."""

    step: int
    fence: int
    rank: int
    world_size: int
    scalars: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where everything lies: ``places`` are (start, end) bytes from the slot's begin."""

    boxes: Mapping[str, Box]
    places: Mapping[str, tuple[int, int]]
    data_start: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A slot that was read; ``data`` is all of it."""

    meta: Meta
    plan: Plan
    data: memoryview

    def tensor(self, name: str) -> memoryview:
        """Return the bytes of one tensor."""
        start, end = self.plan.places[name]
        return self.data[start:end]


def plan_slot(boxes: Mapping[str, Box], scalars_bytes: int = 0) -> Plan:
    """Return where each box goes: wide elements first, so that all are aligned and no gap is left.

    Args:
        boxes: by name.
        scalars_bytes: of JSON that the header will surely hold, beside the room for what changes.

    Raises:
        CheckpointError: an element type that has no name in the format.
    """
    ordered = sorted(boxes, key=lambda name: (-element(boxes[name].dtype)[1], name))
    header = len(_header(boxes, dict.fromkeys(ordered, (0, 1 << 50)), "")) + 2 * scalars_bytes + _ROOM
    start = -(-(header + _LENGTH) // _ALIGNMENT) * _ALIGNMENT
    places, end = {}, start
    for name in ordered:
        places[name] = (end, end + boxes[name].nbytes)
        end = places[name][1]
    return Plan(boxes=dict(boxes), places=places, data_start=start, length=end)


class Header:
    """Writes all of a slot but the tensors: what is the same for every snapshot of a plan is worked out once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        relative = {
            name: (start - plan.data_start, end - plan.data_start) for name, (start, end) in plan.places.items()
        }
        self._before, _, self._after = _header(plan.boxes, relative, _MARK).partition(json.dumps(_MARK).encode())

    def render(self, meta: Meta) -> bytes:
        """Return the bytes in front of the tensors.

        Raises:
            CheckpointError: the JSON values have outgrown their room.
        """
        values = {name: getattr(meta, name) for name in Meta.__slots__}
        text = self._before + json.dumps(json.dumps(values, separators=(",", ":"))).encode() + self._after
        room = self.plan.data_start - _LENGTH
        if len(text) > room:
            raise CheckpointError(
                f"the JSON values of the state need {len(text)} bytes, the snapshot has room for {room}"
            )
        return room.to_bytes(_LENGTH, "little") + text.ljust(room)


def write_header(slot: memoryview, plan: Plan, meta: Meta) -> None:
    """Write all but the tensors.

    Raises:
        CheckpointError: the JSON values have outgrown their room.
    """
    text = Header(plan).render(meta)
    slot[: len(text)] = text


def read_slot(slot: memoryview) -> Image:
    """Return what a slot holds; verify its sum first.

    Raises:
        CheckpointError: it is not what ``write_header`` wrote.
    """
    try:
        data_start = _LENGTH + int.from_bytes(slot[:_LENGTH], "little")
        header = json.loads(bytes(slot[_LENGTH:data_start]))
        own = header.pop("__metadata__")
        record = json.loads(own[_META])
        boxes = {name: _box(fields) for name, fields in json.loads(own["boxes"]).items()}
        places = {
            name: (data_start + entry["data_offsets"][0], data_start + entry["data_offsets"][1])
            for name, entry in header.items()
        }
        meta = Meta(**record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the snapshot cannot be read: {type(error).__name__}: {error}") from error
    if boxes.keys() != places.keys():
        raise CheckpointError("the snapshot cannot be read: its tensors and their boxes differ")
    length = max((end for _, end in places.values()), default=data_start)
    if length > len(slot) or any(end - start != boxes[name].nbytes for name, (start, end) in places.items()):
        raise CheckpointError("the snapshot cannot be read: its tensors do not lie where its header says")
    plan = Plan(boxes=boxes, places=places, data_start=data_start, length=length)
    return Image(meta=meta, plan=plan, data=slot[:length])


def element(dtype: str) -> tuple[str, int]:
    """Return an element type's name in the format and its bytes; ``dtype`` is torch's name.

    Raises:
        CheckpointError: the format has no name for it.
    """
    try:
        return _TYPES[dtype]
    except KeyError:
        raise CheckpointError(f"tensors of {dtype} cannot be kept in a checkpoint") from None


def _header(boxes: Mapping[str, Box], places: Mapping[str, tuple[int, int]], meta: str) -> bytes:
    described = {
        name: [box.dtype, box.shape, box.offset, box.extent, int(box.replicated), int(box.private)]
        for name, box in boxes.items()
    }
    header: dict[str, Any] = {"__metadata__": {_META: meta, "boxes": json.dumps(described, separators=(",", ":"))}}
    for name, (start, end) in places.items():
        box = boxes[name]
        entry = {"dtype": element(box.dtype)[0], "shape": box.extent, "data_offsets": [start, end]}
        header[name] = entry
    return json.dumps(header, separators=(",", ":")).encode()


def _box(fields: list[Any]) -> Box:
    dtype, shape, offset, extent, replicated, private = fields
    return Box(
        dtype=dtype,
        shape=tuple(shape),
        offset=tuple(offset),
        extent=tuple(extent),
        replicated=bool(replicated),
        private=bool(private),
    )
