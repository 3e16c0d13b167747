"""The waiting times against closed forms of small queues, and against each other at their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.matching.serving.queueing import erlang_c, tail_wait, waiting_md1, waiting_mg1, waiting_mgc

SERVERS = st.integers(min_value=1, max_value=40)
BUSY = st.floats(min_value=0.05, max_value=0.95)


def one(value: float) -> np.ndarray:
    return np.array([value])


@settings(max_examples=40, deadline=None)
@given(SERVERS, BUSY)
def test_erlang_c_is_the_textbook_sum(servers: int, busy: float) -> None:
    offered = busy * servers
    last = offered**servers / math.factorial(servers) / (1 - busy)
    wanted = last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)
    assert erlang_c(np.array([servers]), one(offered))[0] == pytest.approx(wanted, rel=1e-9)


@given(BUSY)
def test_one_server_with_random_service_is_mm1(busy: float) -> None:
    wanted = busy / (1 - busy)  # in units of the mean service
    assert waiting_mg1(one(busy), one(1.0), 1.0)[0] == pytest.approx(wanted)
    assert waiting_mgc(np.array([1]), one(busy), one(1.0), 1.0)[0] == pytest.approx(wanted)


@given(BUSY)
def test_fixed_service_waits_half_as_long(busy: float) -> None:
    assert waiting_md1(one(busy), one(2.0))[0] == pytest.approx(waiting_mg1(one(busy), one(2.0), 1.0)[0] / 2)


def test_two_servers_against_their_closed_form() -> None:
    busy = 0.7  # M/M/2: wait = rho^2 / (1 - rho^2) services
    assert waiting_mgc(np.array([2]), one(2 * busy), one(1.0), 1.0)[0] == pytest.approx(busy**2 / (1 - busy**2))


def test_beyond_saturation_there_is_no_end() -> None:
    assert np.isinf(waiting_mg1(one(1.0), one(1.0), 1.0)[0])
    assert np.isinf(waiting_mgc(np.array([4]), one(5.0), one(1.0), 1.0)[0])


def test_tail_of_mm1() -> None:
    """P(wait > t) = rho exp(-(1 - rho) t): its 99th percentile at rho = 0.8 is ln(80) / 0.2 services."""
    mean = waiting_mg1(one(0.8), one(1.0), 1.0)
    assert tail_wait(one(0.8), mean, 0.99)[0] == pytest.approx(math.log(80) / 0.2)
    assert tail_wait(one(0.005), mean, 0.99)[0] == 0.0
