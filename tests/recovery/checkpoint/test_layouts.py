"""One state, cut in other ways by every set of ranks that saves or loads it."""

import hashlib
import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mofang.clock import SystemClock
from mofang.recovery.checkpoint import files
from mofang.recovery.checkpoint.manifest import chunk
from mofang.recovery.checkpoint.save import save_checkpoint
from mofang.recovery.checkpoint.shardfile import Blob, write_shard
from mofang.recovery.checkpoint.state import TrainingState

TENSORS = {
    "embed": torch.arange(11 * 6, dtype=torch.float32).reshape(11, 6),  # 11 rows go into no number of ranks
    "bias": torch.arange(3).to(torch.bfloat16),  # fewer elements than ranks
    "cube": torch.arange(4 * 5 * 3, dtype=torch.int64).reshape(4, 5, 3),
    "step": torch.tensor(7.0, dtype=torch.float64),
}


def box_on_mesh(shape, sizes, where, dims):
    """Return the box of one rank: mesh dimension i cuts tensor dimension ``dims[i]``, or none, as DTensor does."""
    offset, extent = [0] * len(shape), list(shape)
    for size, at, dim in zip(sizes, where, dims, strict=True):
        if dim is not None and dim < len(shape):
            start, length = chunk(extent[dim], size, at)
            offset[dim] += start
            extent[dim] = length
    return tuple(offset), tuple(extent)


def states_on(ranks, sizes, dims, tensors=TENSORS):
    """Return the state of every rank of a mesh."""
    states = []
    for rank in range(math.prod(sizes)):
        where = [rank // math.prod(sizes[axis + 1 :]) % sizes[axis] for axis in range(len(sizes))]
        boxes = {
            name: box_on_mesh(tuple(tensor.shape), sizes, where, dims) if tensor.ndim else None
            for name, tensor in tensors.items()
        }
        states.append(TrainingState(step=10, parts=ranks.cut_boxes(tensors, boxes), own={"rank": rank}))
    return states


def save(ranks, directory, states):
    ranks.together(
        len(states),
        lambda peers: save_checkpoint(directory, states[peers.rank], keep=9, peers=peers, clock=SystemClock()),
    )


LAYOUTS = [
    ((4,), (0,)),
    ((2,), (0,)),
    ((2, 2), (0, 1)),
    ((3,), (1,)),
    ((2, 2), (None, 0)),
    ((2, 3), (0, 0)),
    ((1,), (0,)),
]


@pytest.mark.parametrize(
    ("saved", "loaded"), [(one, other) for one in LAYOUTS for other in LAYOUTS if one != other][::3]
)
def test_any_layout_loads_into_any_other(ranks, tmp_path, saved, loaded):
    save(ranks, tmp_path, states_on(ranks, *saved))
    wanted = states_on(ranks, *loaded)
    states = [ranks.blank(state) for state in wanted]
    results, refused = ranks.load_all(tmp_path, states)
    assert refused == []
    assert all(ranks.same(state, want) for state, want in zip(states, wanted, strict=True))
    assert results[0].world_size == math.prod(saved[0])
    assert [own["rank"] for own in results[0].own] == list(range(math.prod(saved[0])))


def test_four_ranks_two_ranks_four_ranks(ranks, tmp_path):
    four, two = states_on(ranks, (4,), (0,)), states_on(ranks, (2,), (0,))
    save(ranks, tmp_path / "a", four)
    halves = [ranks.blank(state) for state in two]
    ranks.load_all(tmp_path / "a", halves)
    save(ranks, tmp_path / "b", halves)
    again = [ranks.blank(state) for state in four]
    ranks.load_all(tmp_path / "b", again)
    assert all(ranks.same(state, want) for state, want in zip(again, four, strict=True))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_meshes_and_shapes(ranks, tmp_path_factory, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    tensors = {"t": torch.arange(math.prod(shape)).reshape(shape)}
    mesh = st.lists(st.integers(1, 3), min_size=1, max_size=2)
    layouts = []
    for _ in range(2):
        sizes = data.draw(mesh)
        dims = [data.draw(st.one_of(st.none(), st.integers(0, len(shape) - 1))) for _ in sizes]
        layouts.append((tuple(sizes), tuple(dims)))
    directory = tmp_path_factory.mktemp("mesh")
    save(ranks, directory, states_on(ranks, *layouts[0], tensors))
    wanted = states_on(ranks, *layouts[1], tensors)
    states = [ranks.blank(state) for state in wanted]
    ranks.load_all(directory, states)
    assert all(ranks.same(state, want) for state, want in zip(states, wanted, strict=True))


def test_private_tensors_come_back_as_they_were_whatever_their_length(ranks, tmp_path):
    state = TrainingState(step=10, parts=ranks.cut_boxes(TENSORS, {}), private={"loader": torch.arange(5)})
    save(ranks, tmp_path, [state, state])
    wants = TrainingState(step=0, parts=ranks.blank(state).parts, private={"loader": torch.full((2,), -1)})
    (loaded, *_, third), _ = ranks.load_all(tmp_path, [wants, ranks.blank(wants), ranks.blank(wants)])
    assert loaded.private["loader"].tolist() == [0, 1, 2, 3, 4]
    assert wants.private["loader"].tolist() == [-1, -1]
    assert third.private == {}
    assert (third.world_size, third.own) == (2, ({}, {}))


def test_a_checkpoint_of_format_1_is_still_read(ranks, tmp_path):
    """As it was written before JSON files had sums: safetensors' own writer, one line in ``latest``."""
    states = states_on(ranks, (2,), (0,))
    save(ranks, tmp_path, states)
    target = files.step_dir(tmp_path, 10)
    manifest = json.loads((target / "manifest.json").read_text())
    for key in ("sum", "own"):
        manifest.pop(key)
    (target / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    (tmp_path / "latest").write_text("step-00000010\n")
    blank = [ranks.blank(state) for state in states]
    results, refused = ranks.load_all(tmp_path, blank)
    assert refused == []
    assert (results[0].step, results[0].own) == (10, ())
    assert all(ranks.same(state, want) for state, want in zip(blank, states, strict=True))


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


def test_a_shard_is_what_the_safetensors_library_reads(tmp_path):
    tensors = {f"{dtype}": torch.arange(1, 6).to(dtype) for dtype in DTYPES} | {"scalar": torch.tensor(2.5)}
    blobs = [
        Blob(
            name=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            data=memoryview(tensor.reshape(-1).view(torch.uint8).numpy()),
        )
        for name, tensor in tensors.items()
    ]
    path = tmp_path / "shard-00000-of-00001.safetensors"
    shard = write_shard(path, blobs)
    data = path.read_bytes()
    assert (shard.file, shard.bytes, shard.sha256) == (path.name, len(data), hashlib.sha256(data).hexdigest())
    assert int.from_bytes(data[:8], "little") % 8 == 0
    read = load_file(path)
    assert {name: tensor.dtype for name, tensor in read.items()} == {name: t.dtype for name, t in tensors.items()}
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_a_shard_without_tensors_is_a_file_too(tmp_path):
    write_shard(tmp_path / "none.safetensors", [])
    assert load_file(tmp_path / "none.safetensors") == {}
