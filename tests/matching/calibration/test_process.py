"""Partial pooling: shrinkage, doubt about what nobody measured, variances learned from data drawn from the model."""

import numpy as np
import pytest

from mofang.matching.calibration.features import Features
from mofang.matching.calibration.learning import learn, leave_out, scales
from mofang.matching.calibration.process import Kernels, Prior, Term, condition

CHIP, SOURCE = Term(labels=("chip",)), Term(labels=("source",))
NEAR = Term(labels=("chip",), sizes=("tp",), reach=1.0)
PRIOR = Prior(variances={CHIP: 0.04, SOURCE: 0.01}, shared=0.01, noise=0.01)


def features(chips, sources=None, tp=None):
    size = len(chips)
    return Features(
        labels={
            "chip": np.array(chips),
            "source": np.array(sources or [f"s{index}" for index in range(size)]),
            "site": np.array([""] * size),
        },
        sizes={"tp": np.zeros(size) if tp is None else np.array(tp, dtype=float)},
    )


def test_a_group_with_few_rows_is_drawn_to_nothing_and_one_with_many_is_not():
    few = condition(PRIOR, features(["a"]), np.array([0.4])).mean(features(["a"], ["new"]))
    many = condition(PRIOR, features(["a"] * 40), np.full(40, 0.4)).mean(features(["a"], ["new"]))
    assert 0.0 < few[0] < 0.35 < many[0] < 0.4


def test_what_nobody_measured_has_the_whole_variance_and_no_more():
    known = condition(PRIOR, features(["a"] * 5), np.zeros(5))
    _, variance = known.predict(features(["a", "b"], ["new", "new"]))
    assert variance[0] < variance[1] <= PRIOR.total
    assert variance[1] > PRIOR.total - PRIOR.shared


def test_more_rows_never_add_doubt():
    doubts = []
    for count in (1, 2, 5, 20):
        known = condition(PRIOR, features(["a"] * count), np.zeros(count))
        doubts.append(known.predict(features(["a"], ["new"]))[1][0])
    assert doubts == sorted(doubts, reverse=True)


def test_an_effect_fades_with_the_distance_of_sizes():
    prior = Prior(variances={NEAR: 0.04}, shared=0.0, noise=0.001)
    known = condition(prior, features(["a"], tp=[0.0]), np.array([0.3]))
    mean = known.mean(features(["a"] * 4, tp=[0.0, 1.0, 2.0, 6.0]))
    assert mean[0] > mean[1] > mean[2] > mean[3]
    assert mean[3] == pytest.approx(0.0, abs=1e-6)


def test_a_wild_row_hardly_moves_its_group():
    residuals = np.array([0.1] * 10 + [3.0])
    calm = condition(PRIOR, features(["a"] * 10), residuals[:10]).mean(features(["a"], ["new"]))
    wild = condition(PRIOR, features(["a"] * 11), residuals).mean(features(["a"], ["new"]))
    naive = 2.9 / 11  # what the mean of the rows would move by
    assert 0.0 < wild[0] - calm[0] < naive / 2


def drawn(seed=0, chips=10, sources=4, rows=5):
    chance = np.random.default_rng(seed)
    names = [f"c{chip}" for chip in range(chips) for _ in range(sources * rows)]
    origin = [f"c{chip}-s{source}" for chip in range(chips) for source in range(sources) for _ in range(rows)]
    chip = np.repeat(chance.normal(0.0, 0.2, chips), sources * rows)
    source = np.repeat(chance.normal(0.0, 0.1, chips * sources), rows)
    return features(names, origin), chip + source + chance.normal(0.0, 0.05, len(names))


def test_variances_are_found_again():
    known, residuals = drawn()
    prior = learn((CHIP, SOURCE), known, residuals, floors={}, shared=0.01, fixed={})
    assert prior.variances[CHIP] ** 0.5 == pytest.approx(0.2, rel=0.5)
    assert prior.variances[SOURCE] ** 0.5 == pytest.approx(0.1, rel=0.4)
    assert prior.noise**0.5 == pytest.approx(0.05, rel=0.4)


def test_an_effect_that_is_not_there_falls_away_unless_it_has_a_floor():
    known, residuals = drawn()
    nothing = Term(labels=("site",))
    found = learn((CHIP, nothing), known, residuals, floors={}, shared=0.01, fixed={})
    assert nothing not in found.variances
    kept = learn((CHIP, nothing), known, residuals, floors={nothing: 0.01}, shared=0.01, fixed={})
    assert kept.variances[nothing] == pytest.approx(0.01)


def test_intervals_of_left_out_sources_hold_what_they_say():
    known, residuals = drawn(seed=3, chips=12, rows=4)
    prior = learn((CHIP, SOURCE), known, residuals, floors={}, shared=0.01, fixed={})
    mean, variance = leave_out(prior, known, residuals, known.labels["source"])
    inside = np.abs(residuals - mean) <= 1.6449 * np.sqrt(variance)
    assert 0.84 <= inside.mean() <= 0.97


def test_widening_is_the_quantile_of_what_was_left_out():
    errors = np.linspace(-3.0, 3.0, 101)
    found = scales(errors, np.ones(101), np.array(["v"] * 101))
    assert found[""] == pytest.approx(2.7 / 1.6449, rel=0.02)
    assert found["v"] == pytest.approx(found[""])
    assert "v" not in scales(errors[:10], np.ones(10), np.array(["v"] * 10))


def test_a_poisoned_source_does_not_touch_its_own_prediction():
    known, residuals = drawn()
    poisoned = residuals.copy()
    bad = known.labels["source"] == "c0-s0"
    poisoned[bad] += 5.0
    clean, _ = leave_out(PRIOR, known, residuals, known.labels["source"])
    found, _ = leave_out(PRIOR, known, poisoned, known.labels["source"])
    np.testing.assert_allclose(found[bad], clean[bad], rtol=1e-9)
    assert np.abs(found[~bad] - clean[~bad]).max() > 1e-3


def test_rows_without_a_name_share_nothing():
    unnamed = features(["", ""])
    assert Kernels(unnamed, unnamed).of(CHIP).sum() == 0.0
