"""The policy: a snapshot exactly where it pays, a drain hardly ever, hazards that add up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.recovery.cadence import interval
from mofang.recovery.policy import Action, Costs, drain_threshold, hazard_of_risk, job_hazard, judge, work_at_risk

seconds = st.floats(0.001, 1e4)


@settings(max_examples=200, deadline=None)
@given(risk=st.floats(0.0, 1.0), stall=seconds, at_risk=st.floats(0.0, 1e4))
def test_a_snapshot_is_taken_exactly_where_it_saves_more_than_it_costs(risk, stall, at_risk):
    costs = Costs(stall_s=stall, needless_s=1e9)
    found = judge(risk, costs, at_risk)
    if found.action is not Action.DRAIN:
        margin = risk * at_risk - stall
        assert (found.action is Action.SNAPSHOT) == (margin > 0) or abs(margin) < 1e-6 * stall


@settings(max_examples=100, deadline=None)
@given(stall=seconds, at_risk=seconds, needless=st.floats(0.0, 1e5))
def test_draining_needs_a_higher_risk_than_its_expected_costs(stall, at_risk, needless):
    costs = Costs(stall_s=stall, needless_s=needless)
    limit = drain_threshold(costs, at_risk)
    for risk in (limit * 0.999, limit * 1.001):
        waiting = risk * (costs.fault_s + at_risk)
        moving = costs.drain_s + (1.0 - risk) * needless
        assert (moving < waiting) == (risk > limit)


def test_with_ordinary_costs_only_near_certainty_drains_a_node():
    costs = Costs()
    at_risk = work_at_risk(costs, 125 * 4.9e-8, 0.0, 1e9)
    assert drain_threshold(costs, at_risk) > 0.9
    assert judge(0.5, costs, at_risk).action is Action.SNAPSHOT


def test_work_at_risk_is_half_an_interval_and_less_after_a_wish():
    costs = Costs(stall_s=0.01)
    assert work_at_risk(costs, 1e-5, 0.0, 1e9) == pytest.approx(interval(0.01, 1e-5) / 2)
    assert work_at_risk(costs, 1e-5, 0.0, 3.0) == 3.0
    assert judge(1.0, costs, 0.0).action is not Action.SNAPSHOT  # nothing is at risk


@settings(max_examples=100, deadline=None)
@given(risk=st.floats(0.0, 0.999), horizon=seconds)
def test_a_hazard_gives_its_probability_back(risk, horizon):
    hazard = hazard_of_risk(risk, horizon)
    assert -math.expm1(-hazard * horizon) == pytest.approx(risk, abs=1e-9)


def test_hazards_of_nodes_add_up():
    assert job_hazard([1e-6] * 125) == pytest.approx(1.25e-4)
    assert hazard_of_risk(1.0, 60.0) < math.inf
