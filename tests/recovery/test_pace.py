"""Learned step times: no false alarms over long runs, and a hang or a straggler found soon."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.clock import seeded
from mofang.recovery.agent.pace import FLOOR_S, StepTimes
from mofang.recovery.agent.straggler import BusyTimes, Stragglers, Window

AT_MOST = 3600.0


def _run(seed: int, steps: int, *, median: float, spread: float, pauses: float, drift: float) -> tuple[int, float]:
    """Simulate a run; return how many of its steps were taken for a hang, and the last limit by the median then."""
    chance, times, alarms = seeded(seed), StepTimes(), 0
    limit = None
    for step in range(steps):
        centre = median * drift ** (step / steps)
        seconds = centre * math.exp(chance.gauss(0.0, spread))
        if chance.random() < pauses:
            seconds *= 5.0
        alarms += limit is not None and seconds > limit
        times.note(seconds)
        limit = times.limit(AT_MOST)
    assert limit is not None
    return alarms, limit / (median * drift)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**31),
    median=st.floats(2.0, 60.0),
    spread=st.floats(0.01, 0.3),
    pauses=st.sampled_from((0.0, 0.001, 0.01, 0.05)),
    drift=st.sampled_from((0.5, 1.0, 2.0)),
)
def test_jitter_pauses_and_drift_are_no_hangs_and_the_limit_is_a_few_steps(seed, median, spread, pauses, drift):
    alarms, limit = _run(seed, 600, median=median, spread=spread, pauses=pauses, drift=drift)
    assert alarms == 0
    assert limit < 6.0 * math.exp(4.0 * 1.3 * spread) + 3.0 * 5.0 * math.exp(4.0 * spread) * (1.0 / drift + 1.0)


def test_steady_steps_are_given_six_of_them_and_short_ones_the_floor():
    slow, fast = StepTimes(), StepTimes()
    for _ in range(20):
        slow.note(4.0)
        fast.note(0.01)
    assert slow.limit(AT_MOST) == pytest.approx(24.0)
    assert fast.limit(AT_MOST) == FLOOR_S
    assert slow.limit(10.0) == 10.0
    assert slow.limit(AT_MOST, patience=4.0) == pytest.approx(96.0)


def test_nothing_is_said_before_enough_steps_and_the_first_ones_do_not_count():
    times = StepTimes()
    for seconds in (300.0, 200.0, 100.0):
        times.note(seconds)
    for _ in range(7):
        times.note(3.0)
        assert times.limit(AT_MOST) is None
    times.note(3.0)
    assert times.limit(AT_MOST) == pytest.approx(18.0)


def test_a_longest_pause_is_remembered_for_some_hundred_steps():
    times = StepTimes()
    for _ in range(50):
        times.note(2.0)
    times.note(11.0)
    assert times.limit(AT_MOST) == pytest.approx(33.0)
    for _ in range(256):
        times.note(2.0)
    assert times.limit(AT_MOST) == pytest.approx(12.0)


def test_several_steps_between_two_looks_share_the_time():
    times = StepTimes()
    for _ in range(20):
        times.note(6.0, steps=3)
    assert times.limit(AT_MOST) == pytest.approx(12.0)


def _windows(chance, ranks: int, slow: dict[int, float], step: int, samples: int = 10) -> list[Window]:
    times = BusyTimes()
    times.close(0.0)
    for index in range(samples):
        for rank in range(ranks):
            jitter = math.exp(chance.gauss(0.0, 0.1)) * (3.0 if chance.random() < 0.02 else 1.0)
            times.note(rank, step + index, 0.2 * slow.get(rank, 1.0) * jitter)
    return times.close(10.0)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), ranks=st.integers(2, 16), factor=st.floats(1.5, 4.0))
def test_a_slow_rank_is_named_once_an_episode_and_nobody_else_is(seed, ranks, factor):
    chance, judge = seeded(seed), Stragglers(ranks)
    slow = seed % ranks
    told = []
    for phase, windows in (({}, 30), ({slow: factor}, 30), ({}, 30), ({slow: factor}, 30)):
        found = [one for number in range(windows) for one in judge.take(_windows(chance, ranks, phase, number * 10))]
        told.append([one.rank for one in found])
        assert all(one.ratio == pytest.approx(factor, rel=0.35) for one in found)
    assert told == [[], [slow], [], [slow]]


def test_a_slow_rank_takes_three_windows_to_be_named():
    chance, judge = seeded(1), Stragglers(4)
    found = [judge.take(_windows(chance, 4, {2: 2.0}, number)) for number in range(4)]
    assert [len(one) for one in found] == [0, 0, 1, 0]


def test_ranks_of_several_nodes_are_judged_once_all_have_reported():
    chance, judge = seeded(2), Stragglers(4)
    told = []
    for number in range(3):
        windows = _windows(chance, 4, {3: 2.0}, number)
        assert judge.take(windows[:2]) == []
        told += judge.take(windows[2:])
    assert [(one.rank, one.step) for one in told] == [(3, 11)]


def test_one_rank_alone_has_nobody_to_be_compared_with():
    chance, judge = seeded(3), Stragglers(1)
    assert all(judge.take(_windows(chance, 1, {}, number)) == [] for number in range(5))


def test_a_window_needs_samples_and_seconds_and_counts_a_step_once():
    times = BusyTimes()
    assert times.close(0.0) == []
    for step in (1, 1, 1, 1, 1, 2):
        times.note(0, step, 0.5)
    assert times.close(100.0) == []
    for step in (3, 4, 5):
        times.note(0, step, 0.5)
    assert times.close(1.0) == []
    (window,) = times.close(4.0)
    assert window == Window(rank=0, step=5, low=0.5, median=0.5, high=0.5)
