"""A slot is a safetensors file: what was laid out is read back, and everybody's reader understands it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.errors import CheckpointError
from mofang.recovery.snapshot.layout import Box, Meta, plan_slot, read_slot, write_header

META = Meta(step=7, fence=2, rank=1, world_size=4, scalars={"loss": 1.5}, own={"position": [1, 2]})
DTYPES = {"float64": "<f8", "float32": "<f4", "int64": "<i8", "uint8": "|u1", "float16": "<f2", "bool": "|b1"}
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
boxes = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.builds(
        lambda dtype, extent, replicated: Box(
            dtype=dtype, shape=extent, offset=(0,) * len(extent), extent=extent, replicated=replicated
        ),
        st.sampled_from(sorted(DTYPES)),
        shapes,
        st.booleans(),
    ),
    max_size=6,
)


def fill(described):
    plan = plan_slot(described)
    slot = memoryview(bytearray(plan.length))
    write_header(slot, plan, META)
    values = {}
    for number, (name, box) in enumerate(described.items()):
        values[name] = np.full(box.extent, number % 2, dtype=DTYPES[box.dtype])
        start, end = plan.places[name]
        slot[start:end] = values[name].tobytes()
    return slot, values


@given(boxes)
@settings(max_examples=60, deadline=None)
def test_what_was_laid_out_is_read_back_by_us_and_by_the_format_s_own_reader(described):
    slot, values = fill(described)
    image = read_slot(slot)
    assert image.meta == META
    assert dict(image.plan.boxes) == described
    theirs = safetensors.numpy.load(bytes(slot))
    assert theirs.keys() == values.keys()
    for name, value in values.items():
        assert image.tensor(name).nbytes == math.prod(value.shape) * value.itemsize
        assert bytes(image.tensor(name)) == value.tobytes()
        assert np.array_equal(theirs[name], value)


@given(boxes)
@settings(max_examples=30, deadline=None)
def test_every_tensor_lies_on_a_multiple_of_its_element(described):
    plan = plan_slot(described)
    for name, (start, _) in plan.places.items():
        assert start % np.dtype(DTYPES[described[name].dtype]).itemsize == 0


def test_scalars_that_outgrow_their_room_are_refused():
    plan = plan_slot({})
    with pytest.raises(CheckpointError, match="has room for"):
        write_header(
            memoryview(bytearray(plan.length)),
            plan,
            Meta(step=1, fence=1, rank=0, world_size=1, own={"x": "y" * plan.length}),
        )


def test_an_element_type_without_a_name_is_refused():
    with pytest.raises(CheckpointError, match="complex64"):
        plan_slot({"a": Box(dtype="complex64", shape=(1,), offset=(0,), extent=(1,))})


@pytest.mark.parametrize("broken", [b"", b"\0" * 64, b"\x04\0\0\0\0\0\0\0null", b'\x08\0\0\0\0\0\0\0{"a":1}}'])
def test_what_is_no_snapshot_is_refused(broken):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_slot(memoryview(broken))
