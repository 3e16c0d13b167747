import itertools
import math
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.errors import UsageError
from mofang.recovery.cadence import LONGEST_S, MOST_STALLED, Cadence, Every, interval, parse_every, young_daly

stalls = st.floats(1e-4, 10.0)
hazards = st.floats(0.0, 1.0)
quick = settings(max_examples=60, deadline=None)


def simulate(cadence, *, step_s, stall_s, steps, hazard=None):
    """Run a job of steps and return (step, start of the snapshot) of each snapshot and the whole time."""
    now, taken = 0.0, []
    cadence.start(0, now)
    for step in range(1, steps + 1):
        now += step_s
        cadence.stepped(now)
        if hazard is not None:
            cadence.expect(hazard)
        if cadence.due(step) or cadence.wants(step, now):
            taken.append((step, now))
            now += stall_s
            cadence.taken(step, now, stall_s)
    return taken, now


def test_the_interval_is_youngs():
    # Young 1974: sqrt(2 C M); one minute's checkpoint and a fault a day: 10,182 s
    assert young_daly(60.0, 1 / 86400) == pytest.approx(math.sqrt(2 * 60 * 86400))
    assert young_daly(60.0, 1 / 86400, recall=0.75) == pytest.approx(2 * young_daly(60.0, 1 / 86400))
    assert young_daly(1.0, 0.0) == math.inf


@quick
@given(stalls, st.floats(1e-9, 1.0), st.floats(0.3, 3.0))
def test_no_other_interval_loses_less(stall, hazard, factor):
    best = young_daly(stall, hazard)

    def waste(seconds):
        return stall / seconds + hazard * seconds / 2

    assert waste(best) <= waste(best * factor) * (1 + 1e-12)


@quick
@given(stalls, hazards, st.floats(0.0, 1.0))
def test_stalls_stay_under_a_hundredth_and_there_is_always_a_next_one(stall, hazard, recall):
    seconds = interval(stall, hazard, recall)
    assert stall / seconds <= MOST_STALLED * (1 + 1e-12)
    assert seconds <= max(LONGEST_S, stall / MOST_STALLED)


@quick
@given(stalls, hazards, hazards)
def test_more_faults_never_mean_fewer_snapshots(stall, one, other):
    low, high = sorted((one, other))
    assert interval(stall, high) <= interval(stall, low)


@quick
@given(st.floats(0.01, 30.0), st.floats(1e-4, 3.0), hazards)
def test_a_whole_run_keeps_the_limits(step_s, stall, hazard):
    taken, _ = simulate(Cadence(Every()), step_s=step_s, stall_s=stall, steps=400, hazard=hazard)
    steps = [step for step, _ in taken]
    assert steps[0] == 1
    assert len(steps) == len(set(steps))
    gaps = [after - before - stall for (_, before), (_, after) in itertools.pairwise(taken)]
    longest = max(LONGEST_S, stall / MOST_STALLED) + step_s + 1e-6
    assert all(stall / MOST_STALLED * (1 - 1e-9) <= gap <= longest for gap in gaps)
    waited = 400 * step_s
    assert len(taken) * stall <= MOST_STALLED * waited + 2 * stall


@quick
@given(st.integers(1, 50), st.integers(1, 300))
def test_counted_steps_are_known_to_every_rank(every, steps):
    taken, _ = simulate(Cadence(Every(steps=every)), step_s=1.0, stall_s=0.1, steps=steps)
    assert [step for step, _ in taken] == list(range(every, steps + 1, every))


@quick
@given(st.floats(1.0, 100.0), st.floats(0.1, 5.0))
def test_seconds_are_kept_to_half_a_step(seconds, step_s):
    taken, _ = simulate(Cadence(Every(seconds=seconds)), step_s=step_s, stall_s=0.0, steps=500)
    for (_, before), (_, after) in itertools.pairwise(taken):
        assert seconds - step_s / 2 - 1e-6 <= after - before <= seconds + max(step_s / 2, step_s - seconds) + 1e-6


def test_a_wish_is_granted_once_and_not_for_a_step_that_is_safe():
    cadence = Cadence(Every(steps=1000))
    cadence.start(10, 0.0)
    cadence.wish()
    assert not cadence.wants(10, 0.0)
    assert cadence.wants(11, 1.0)
    cadence.taken(11, 1.1, 0.1)
    assert not cadence.wants(12, 2.0)


def test_a_predicted_hazard_brings_the_next_one_forward():
    calm, warned = Cadence(Every(), longest_s=600.0), Cadence(Every(), longest_s=600.0)
    for cadence in (calm, warned):
        cadence.start(0, 0.0)
        cadence.taken(1, 1.0, 0.02)
        cadence.expect(1e-6)
    warned.expect(0.01)
    assert calm.interval_s == pytest.approx(math.sqrt(2 * 0.02 / 1e-6))
    assert warned.interval_s == pytest.approx(2.0)


def test_what_people_write():
    assert parse_every(100) == Every(steps=100)
    assert parse_every("10m") == Every(seconds=600.0)
    assert parse_every(timedelta(hours=1)) == Every(seconds=3600.0)
    assert parse_every("auto") == Every()


@pytest.mark.parametrize("wrong", [0, -5, "0s", "often", True, 2.5, None, timedelta(0)])
def test_other_things_are_refused_in_one_line(wrong):
    with pytest.raises(UsageError) as caught:
        parse_every(wrong)
    assert "\n" not in caught.value.message
    assert "auto" in caught.value.hint
