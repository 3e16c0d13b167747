"""Partial pooling: groups with many rows are followed, groups with few shrink, unknown ones only widen."""

from __future__ import annotations

import numpy as np
import pytest

from mofang.matching.serving.effects import BORROWED, NOISE, Block, Effects, Sample, fitted_scale, gather

BLOCKS = (Block(labels=("chip",), features=("one",), sd=0.2), Block(labels=("publisher",), features=("one",), sd=0.3))


def sample(chips: list[str], publishers: list[str], borrowed: float = 0.0) -> Sample:
    size = len(chips)
    return Sample(
        labels={"chip": np.array(chips), "publisher": np.array(publishers)},
        features={"one": np.ones(size), BORROWED: np.full(size, borrowed)},
    )


def test_many_rows_are_followed_and_few_shrink() -> None:
    rows = sample(["a"] * 400 + ["b"], [f"p{k % 20}" for k in range(400)] + ["q"])
    effects = gather(BLOCKS, rows, np.full(401, 0.2)).effects(1.0)
    assert effects.means[0, "one", "a"] > 0.12
    assert effects.means[0, "one", "b"] < 0.1
    assert effects.sds[0, "one", "a"] < effects.sds[0, "one", "b"]


def test_an_unknown_chip_adds_only_width() -> None:
    rows = sample(["a"] * 50, [f"p{k % 5}" for k in range(50)])
    effects = gather(BLOCKS, rows, np.full(50, 0.1)).effects(1.0)
    mean, sd = effects.predict(sample(["never seen"], [""]))
    assert mean[0] == 0.0
    assert sd[0] == pytest.approx(np.sqrt(NOISE**2 + 0.2**2 + 0.3**2))


def test_borrowed_operators_widen() -> None:
    effects = Effects(blocks=BLOCKS, means={}, sds={})
    (_, known), (_, borrowed) = (effects.predict(sample(["a"], ["p"], value)) for value in (0.0, 0.5))
    assert borrowed[0] > known[0]


def test_held_out_rows_do_not_see_their_own_group() -> None:
    rows = sample(["a"] * 60, ["p"] * 30 + ["q"] * 30)
    wanted = np.concatenate([np.full(30, 1.0), np.zeros(30)])
    sums = gather(BLOCKS, rows, wanted)
    mean, _ = sums.held_out(rows.labels["publisher"])
    alone = gather(BLOCKS, rows.where(np.arange(60) >= 30), wanted[30:])
    assert abs(mean[0]) < 0.05  # q's rows say nothing is off
    assert mean[:30] == pytest.approx(alone.effects(1.0).predict(rows.where(np.arange(60) < 30))[0], abs=0.05)


def test_the_interval_holds_what_it_promises() -> None:
    draw = np.random.default_rng(0).normal(0.0, 2.0, 20_000)
    assert fitted_scale(draw, np.ones(20_000)) == pytest.approx(2.0, rel=0.03)
    assert fitted_scale(np.zeros(0), np.zeros(0)) == 1.0
