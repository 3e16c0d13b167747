import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.manifest import (
    Commit,
    Piece,
    Shard,
    TensorEntry,
    assemble,
    balance,
    chunk,
    plan_reads,
)

SHAPES = st.lists(st.integers(1, 7), min_size=0, max_size=3).map(tuple)


def boxes(shape, draw, depth=0):
    """Cut a box at random, recursively: any tiling by boxes, not only rows."""
    cuttable = [dim for dim, size in enumerate(shape) if size > 1]
    if depth > 3 or not cuttable or not draw(st.booleans()):
        return [((0,) * len(shape), shape)]
    dim = draw(st.sampled_from(cuttable))
    at = draw(st.integers(1, shape[dim] - 1))
    low = (*shape[:dim], at, *shape[dim + 1 :])
    high = (*shape[:dim], shape[dim] - at, *shape[dim + 1 :])
    moved = [
        ((*offset[:dim], offset[dim] + at, *offset[dim + 1 :]), size) for offset, size in boxes(high, draw, depth + 1)
    ]
    return boxes(low, draw, depth + 1) + moved


def stored(entry, whole):
    return {
        piece.shard: whole[tuple(slice(o, o + s) for o, s in zip(piece.offset, piece.shape, strict=True))]
        for piece in entry.pieces
    }


def commit(rank, world_size, tensors, step=3):
    shard = Shard(file=f"shard-{rank}", bytes=1, sha256="0")
    return Commit(step=step, rank=rank, world_size=world_size, shard=shard, tensors=tensors)


@settings(max_examples=60, deadline=None)
@given(st.data(), SHAPES)
def test_any_tiling_reassembles_into_any_other(data, shape):
    whole = np.arange(math.prod(shape)).reshape(shape)
    tiles = boxes(shape, data.draw)
    pieces = [Piece(shard=rank, offset=offset, shape=size) for rank, (offset, size) in enumerate(tiles)]
    commits = [
        commit(rank, len(pieces), {"t": TensorEntry(dtype="int64", shape=shape, pieces=(piece,))})
        for rank, piece in enumerate(pieces)
    ]
    entry = assemble(commits, {}).tensors["t"]
    held = stored(entry, whole)
    for offset, size in boxes(shape, data.draw):
        box = np.full(size, -1)
        for read in plan_reads("t", entry, offset, size):
            box[read.target] = held[read.shard][read.source]
        np.testing.assert_array_equal(box, whole[tuple(slice(o, o + s) for o, s in zip(offset, size, strict=True))])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100), st.integers(1, 9))
def test_chunks_tile_a_dimension(length, parts):
    chunks = [chunk(length, parts, index) for index in range(parts)]
    covered = [element for start, size in chunks for element in range(start, start + size)]
    assert covered == list(range(length))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 1000), min_size=1), st.integers(1, 5))
def test_the_fullest_rank_has_at_most_the_mean_and_one_tensor(sizes, parts):
    owners = balance(sizes, parts)
    loads = [sum(sizes[name] for name in sizes if owners[name] == part) for part in range(parts)]
    assert set(owners) == set(sizes)
    assert max(loads) <= sum(sizes.values()) / parts + max(sizes.values())


def entry(*pieces, shape=(4,)):
    return TensorEntry(dtype="float32", shape=shape, pieces=tuple(Piece(shard=0, offset=o, shape=s) for o, s in pieces))


@pytest.mark.parametrize(
    "broken",
    [
        entry(((0,), (3,))),  # one element is missing
        entry(((0,), (3,)), ((2,), (1,))),  # the number is right, one is there twice
        entry(((2,), (4,))),  # beyond the end
        entry(((0, 0), (2, 2))),  # another number of dimensions
    ],
)
def test_pieces_that_do_not_tile_are_refused(broken):
    with pytest.raises(CheckpointError, match="do not tile"):
        assemble([commit(0, 1, {"t": broken})], {})


def test_overlaps_are_found_beyond_the_next_piece():
    pieces = (((0, 0), (4, 1)), ((0, 1), (1, 1)), ((1, 1), (1, 1)), ((3, 0), (1, 2)))
    with pytest.raises(CheckpointError, match="do not tile"):
        assemble([commit(0, 1, {"t": entry(*pieces, shape=(4, 2))})], {})


@pytest.mark.parametrize(
    "commits",
    [
        [],
        [commit(1, 2, {})],  # rank 0 is missing
        [commit(0, 2, {}), commit(0, 2, {})],  # one rank twice
        [commit(0, 2, {}), commit(1, 2, {}, step=4)],  # a record of another step
        [
            commit(0, 2, {"t": TensorEntry(dtype="float32", shape=(2,), pieces=())}),
            commit(1, 2, {"t": TensorEntry(dtype="bfloat16", shape=(2,), pieces=())}),
        ],
    ],
)
def test_commit_records_that_do_not_belong_together_are_refused(commits):
    with pytest.raises(CheckpointError):
        assemble(commits, {})


def test_a_box_that_is_not_covered_is_refused():
    with pytest.raises(CheckpointError, match="needs 4 elements, the checkpoint has 3"):
        plan_reads("t", entry(((0,), (3,))), (0,), (4,))
