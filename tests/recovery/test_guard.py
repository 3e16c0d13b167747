"""Losses that go wrong are seen, steady ones are left alone, and data is left out for good."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.clock import seeded
from mofang.recovery.checksum import checksum, odd_ones
from mofang.recovery.guard import Guard, Skips, TroubleKind, steps_back


def _curve(seed: int, steps: int, noise: float):
    """Yield loss and norm of a training that falls as a power law, with noise."""
    chance = seeded(seed)
    for step in range(steps):
        loss = 2.0 + 6.0 * (1.0 + step / 20.0) ** -0.5 + chance.gauss(0.0, noise)
        yield loss, math.exp(chance.gauss(0.0, 0.3))


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**31), noise=st.floats(0.0, 0.3))
def test_an_ordinary_training_gives_no_alarm(seed, noise):
    guard = Guard()
    assert all(guard.judge(step, *pair) is None for step, pair in enumerate(_curve(seed, 800, noise)))


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**31), at=st.integers(150, 290), noise=st.floats(0.01, 0.15))
def test_a_spike_is_seen_at_its_first_step_and_once(seed, at, noise):
    guard, found = Guard(), []
    for step, (loss, norm) in enumerate(_curve(seed, 300, noise)):
        spike = 6.0 if at <= step < at + 5 else 0.0
        if (trouble := guard.judge(step, loss + spike, norm)) is not None:
            found.append((step, trouble.kind))
    assert found == [(at, TroubleKind.SPIKE)]


def test_a_leap_of_the_gradient_alone_is_a_spike():
    guard = Guard()
    for step, pair in enumerate(_curve(3, 100, 0.05)):
        assert guard.judge(step, *pair) is None
    trouble = guard.judge(100, 4.0, 1e4)
    assert trouble is not None
    assert "the gradient norm of step 100 is 1e+04" in trouble.message


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf)])
def test_what_is_no_number_is_trouble_from_the_first_step(loss, norm):
    trouble = Guard().judge(1, loss, norm)
    assert trouble is not None
    assert trouble.kind is TroubleKind.NOT_FINITE
    assert "the loss of step 1 is" in trouble.message


@settings(deadline=None, max_examples=50)
@given(moves=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8)), max_size=5))
def test_data_that_was_left_out_is_never_seen_again_and_all_other_is_seen_once(moves):
    skips = Skips()
    gone: set[int] = set()
    for step, count in moves:
        found = skips.leave_out(step, count)
        assert len(found) == min(count, step + 1)
        assert gone.isdisjoint(found)
        gone |= set(found)
    seen = [skips.index(step) for step in range(100)]
    assert gone.isdisjoint(seen)
    assert seen == [index for index in range(100 + len(gone)) if index not in gone][:100]
    assert [Skips(skips.left_out).index(step) for step in range(100)] == seen


def test_each_going_back_leaves_out_twice_as_much():
    assert [steps_back(count) for count in (1, 2, 3)] == [1, 2, 4]


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 300), bit=st.integers(0, 31), data=st.data())
def test_a_flipped_bit_changes_the_sum(size, bit, data):
    tensors = [torch.arange(size, dtype=torch.float32), torch.ones(7, dtype=torch.bfloat16)]
    before = checksum(tensors)
    assert before == checksum([tensor.clone() for tensor in tensors])
    assert -(2**63) <= before < 2**63
    words = tensors[0].view(torch.int32)
    index = data.draw(st.integers(0, size - 1))
    words[index] ^= -(2**31) if bit == 31 else 1 << bit
    assert checksum(tensors) != before


def test_the_minority_is_named_and_nobody_where_there_is_none():
    assert odd_ones([5, 5, 7]) == [2]
    assert odd_ones([5, 7]) == [0, 1]
    assert odd_ones([1, 1, 2, 2]) == [0, 1, 2, 3]
    assert odd_ones([4, 4, 4]) == []
