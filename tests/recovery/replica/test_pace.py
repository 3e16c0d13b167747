"""The rate of copies: held over any time, learnt from the link, raised when copies come too late."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.clock import ManualClock
from mofang.recovery.replica.pace import Bucket, Pace


@settings(max_examples=100, deadline=None)
@given(
    st.floats(1e3, 1e9),
    st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, 0.01)), min_size=1, max_size=100),
)
def test_no_more_than_the_rate_and_one_burst_pass(rate, pieces):
    clock = ManualClock()
    bucket = Bucket(rate, clock)
    passed = 0
    for length, pause in pieces:
        clock.advance(pause)
        passed += length
        clock.sleep(bucket.take(length))
        assert passed <= rate * (clock.monotonic() + 0.05) * 1.001 + 1


@pytest.mark.parametrize("rate", [1e6, 50e6, 2e9])
def test_a_busy_sender_gets_the_rate_within_a_fifth(rate):
    clock = ManualClock()
    bucket, passed = Bucket(rate, clock), 0
    while clock.monotonic() < 5.0:
        passed += 65536
        clock.sleep(bucket.take(65536))
    assert passed / clock.monotonic() == pytest.approx(rate, rel=0.2)


def test_the_share_of_a_link_is_known_after_the_first_bytes():
    clock = ManualClock()
    pace = Pace(None, 0.25)
    limit = pace.limiter(clock)
    clock.advance(0.1)
    assert limit(32 << 20) is None
    clock.advance(0.1)
    bucket = limit(64 << 20)
    assert bucket.rate == pytest.approx((64 << 20) / 0.2 * 0.25)
    assert pace.limiter(clock)(0) is bucket


def test_a_slow_link_is_still_used():
    clock = ManualClock()
    pace = Pace(None, 0.25)
    limit = pace.limiter(clock)
    clock.advance(64.0)
    assert limit(64 << 20).rate == 32e6


def test_each_copy_that_came_too_late_doubles_the_rate():
    pace = Pace(100e6, 0.25)
    limit = pace.limiter(ManualClock())
    assert limit(0).rate == 100e6
    pace.lost()
    pace.lost()
    assert limit(0).rate == 400e6
