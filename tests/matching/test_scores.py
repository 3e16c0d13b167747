import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.matching.scores import (
    bootstrap_interval,
    concordance,
    rank_correlation,
    ranking,
    score,
    top1_regret,
)

speeds = st.lists(st.floats(0.1, 1e6), min_size=1, max_size=30)


def test_figures_of_known_errors():
    found = score([110, 90, 200, 100], [100, 100, 100, 100], [90, 80, 150, 99], [120, 95, 250, 101])
    assert found.n == 4
    assert found.median_ape == pytest.approx(0.1)
    assert found.p90_ape == pytest.approx(0.73)
    assert found.bias == pytest.approx(0.05)
    assert found.coverage_90 == pytest.approx(0.5)


def test_of_nothing_every_figure_is_none():
    assert score([], []).to_data() == {"n": 0, "median_ape": None, "p90_ape": None, "bias": None, "coverage_90": None}


def test_without_an_interval_there_is_no_coverage():
    assert score([1.0], [1.0]).coverage_90 is None


@given(speeds)
@settings(max_examples=30, deadline=None)
def test_exact_predictions_have_no_error(values):
    found = score(values, values, values, values)
    assert (found.median_ape, found.p90_ape, found.bias, found.coverage_90) == (0.0, 0.0, 0.0, 1.0)


def test_concordance_counts_pairs_inside_groups_and_halves_predicted_ties():
    assert concordance([([3, 2, 1], [30, 20, 10]), ([1, 2], [20, 10])]) == pytest.approx(3 / 4)
    assert concordance([([5, 5], [2, 1])]) == pytest.approx(0.5)
    assert concordance([([1, 2], [7, 7])]) is None


def test_regret_is_the_part_of_the_best_speed_that_is_lost():
    assert top1_regret([1, 3, 2], [100, 80, 90]) == pytest.approx(0.2)
    assert top1_regret([3, 1, 2], [100, 80, 90]) == 0.0


def test_ranking_of_groups():
    found = ranking({"a": ([2, 1], [20, 10]), "b": ([1, 2], [20, 10])})
    assert (found.groups, found.rows) == (2, 4)
    assert found.mean_regret == pytest.approx(0.25)
    assert found.concordance == pytest.approx(0.5)
    assert found.concordance_90 == (0.0, 1.0)
    assert ranking({}).to_data()["concordance"] is None


def test_the_bootstrap_repeats_itself_and_holds_the_mean_of_a_sample():
    values = list(np.random.default_rng(1).normal(5.0, 1.0, 200))
    low, high = bootstrap_interval(values, lambda drawn: float(np.mean(drawn)), seed=3)
    assert (low, high) == bootstrap_interval(values, lambda drawn: float(np.mean(drawn)), seed=3)
    assert low < float(np.mean(values)) < high
    assert high - low == pytest.approx(2 * 1.645 / math.sqrt(200), rel=0.25)


@given(st.lists(st.integers(-50, 50), min_size=3, max_size=20))
@settings(max_examples=30, deadline=None)
def test_ranks_are_kept_by_any_rising_function(values):
    found = rank_correlation(values, [value**3 for value in values])
    assert math.isnan(found) if len(set(values)) == 1 else found == pytest.approx(1.0)
