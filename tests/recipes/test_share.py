"""The same global batch on any number of ranks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mofang.recipes.training.share import Share

BATCHES = st.tuples(st.integers(1, 8), st.integers(1, 5), st.integers(1, 7))


@given(BATCHES, st.integers(1, 7))
def test_every_place_is_trained_on_once_whatever_the_number_of_ranks(batch, ranks):
    micro_batch, accumulation, planned = batch
    whole, world_size = micro_batch * accumulation * planned, min(ranks, planned)
    shares = [
        Share(rank=rank, world_size=world_size, micro_batch=micro_batch, global_batch=whole)
        for rank in range(world_size)
    ]
    places, weights = [], []
    for share in shares:
        pieces = list(share.pieces())
        assert len(pieces) == share.passes
        assert all(1 <= piece.size <= micro_batch for piece in pieces)
        assert all(piece.first >= 0 and piece.first + piece.size <= whole for piece in pieces)
        places += [piece.first + at for piece in pieces if piece.weight for at in range(piece.size)]
        weights += [piece.weight for piece in pieces]
    assert sorted(places) == places == list(range(whole))
    assert abs(sum(weights) / len(weights) - 1.0) < 1e-12
    assert len({share.passes for share in shares}) == 1


@given(BATCHES)
def test_with_as_many_ranks_as_planned_every_pass_is_a_whole_micro_batch(batch):
    micro_batch, accumulation, planned = batch
    for rank in range(planned):
        share = Share(
            rank=rank, world_size=planned, micro_batch=micro_batch, global_batch=micro_batch * accumulation * planned
        )
        assert [(piece.size, piece.weight) for piece in share.pieces()] == [(micro_batch, 1.0)] * accumulation


def test_passes_are_even_where_ranks_do_not_divide_the_batch():
    shares = [Share(rank=rank, world_size=3, micro_batch=2, global_batch=8) for rank in range(3)]
    assert [[piece.size for piece in share.pieces()] for share in shares] == [[1, 1], [1, 2], [1, 2]]
