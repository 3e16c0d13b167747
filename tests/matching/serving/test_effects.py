"""Partial pooling: groups with many rows are followed, groups with few shrink, unknown ones only widen."""

from __future__ import annotations

import numpy as np
import pytest

from mofang.matching.serving.effects import BORROWED, NOISE, REGIME, Block, Effects, Sample, fitted_scales, gather

BLOCKS = (Block(labels=("chip",), features=("one",), sd=0.2), Block(labels=("publisher",), features=("one",), sd=0.3))


def sample(chips: list[str], publishers: list[str], borrowed: float = 0.0) -> Sample:
    size = len(chips)
    return Sample(
        labels={"chip": np.array(chips), "publisher": np.array(publishers), REGIME: np.full(size, "flowing")},
        features={"one": np.ones(size), BORROWED: np.full(size, borrowed)},
    )


def test_many_rows_are_followed_and_few_shrink() -> None:
    rows = sample(["a"] * 400 + ["b"], [f"p{k % 20}" for k in range(400)] + ["q"])
    effects = gather(BLOCKS, rows, np.full(401, 0.2)).effects({})
    assert effects.means[0, "one", "a"] > 0.12
    assert effects.means[0, "one", "b"] < 0.1
    assert effects.sds[0, "one", "a"] < effects.sds[0, "one", "b"]


def test_an_unknown_chip_adds_only_width() -> None:
    rows = sample(["a"] * 50, [f"p{k % 5}" for k in range(50)])
    effects = gather(BLOCKS, rows, np.full(50, 0.1)).effects({})
    mean, sd = effects.predict(sample(["never seen"], [""]))
    assert mean[0] == 0.0
    assert sd[0] == pytest.approx(np.full(2, np.sqrt(NOISE**2 + 0.2**2 + 0.3**2)))


BORROWING = (Block(labels=("chip",), features=(BORROWED,), sd=1.0),)


def test_borrowed_operators_widen_until_the_chip_was_measured() -> None:
    unknown = Effects(blocks=BORROWING, means={}, sds={})
    (_, known), (_, borrowed) = (unknown.predict(sample(["a"], ["p"], value)) for value in (0.0, 0.5))
    assert (borrowed[0] > known[0]).all()
    rows = sample(["a"] * 20, ["p"] * 20, 0.5)
    mean, settled = gather(BORROWING, rows, np.full(20, 0.4)).effects({}).predict(rows)
    assert mean[0] == pytest.approx(0.4, abs=0.02)
    assert (settled[0] < 0.5 * borrowed[0]).all()


def test_held_out_rows_do_not_see_their_own_group() -> None:
    rows = sample(["a"] * 60, ["p"] * 30 + ["q"] * 30)
    wanted = np.concatenate([np.full(30, 1.0), np.zeros(30)])
    sums = gather(BLOCKS, rows, wanted)
    mean, _ = sums.held_out(rows.labels["publisher"])
    alone = gather(BLOCKS, rows.where(np.arange(60) >= 30), wanted[30:])
    assert abs(mean[0]) < 0.05  # q's rows say nothing is off
    assert mean[:30] == pytest.approx(alone.effects({}).predict(rows.where(np.arange(60) < 30))[0], abs=0.05)


def test_the_interval_holds_what_it_promises_on_either_side_and_in_every_regime() -> None:
    draw = np.random.default_rng(0).normal(0.0, 2.0, 20_000)
    groups, regimes = np.array([f"p{k % 5}" for k in range(20_000)]), np.repeat(["flowing", "waiting"], 10_000)
    residuals = np.where(regimes == "waiting", 2.0, 1.0) * np.where(draw > 0.0, 1.5, 1.0) * draw
    scales = fitted_scales(residuals, np.ones(20_000), regimes, groups)
    assert scales["flowing"] == pytest.approx((2.0, 3.0), rel=0.05)
    assert scales["waiting"] == pytest.approx((4.0, 6.0), rel=0.05)


def test_a_regime_of_few_publishers_is_no_surer_than_all_together() -> None:
    regimes = np.repeat(["divided", "flowing"], [50, 950])
    groups = np.array(["one"] * 50 + [f"p{k % 5}" for k in range(950)])
    residuals = np.where(regimes == "divided", 0.1, np.random.default_rng(0).normal(0.0, 3.0, 1000))
    scales = fitted_scales(residuals, np.ones(1000), regimes, groups)
    assert scales["divided"][0] >= 2.5
    assert scales["divided"][1] >= 2.5


def test_rows_on_one_side_say_nothing_of_the_other() -> None:
    scales = fitted_scales(np.full(10, 5.0), np.ones(10), np.full(10, "flowing"), np.array(list("abcdefghij")))
    assert scales["flowing"][0] == 1.0
    assert fitted_scales(np.zeros(0), np.zeros(0), np.zeros(0, np.str_), np.zeros(0, np.str_)) == {}
