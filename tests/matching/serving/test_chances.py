"""How likely a service keeps its level."""

from __future__ import annotations

import numpy as np
import pytest

from mofang.domain.reasons import Reason
from mofang.domain.scenario import ServiceLevel, Traffic
from mofang.matching.serving import match_service
from mofang.matching.serving.chances import chance_kept

from .conftest import lengths

LEVEL = ServiceLevel(ttft_s=0.5, tpot_s=0.04)


def chance(ttft: float, tpot: float, spare: float = np.inf, sd: tuple[float, float] = (0.5, 0.5)) -> float:
    doubt = np.array([sd])
    return float(
        chance_kept(
            LEVEL,
            ttft=np.array([ttft]),
            tpot=np.array([tpot]),
            spare=np.array([spare]),
            start_sd=doubt,
            time_sd=doubt,
        )[0]
    )


def test_at_both_limits_it_is_even_for_each() -> None:
    assert chance(0.5, 0.04) == pytest.approx(0.25)
    assert chance(0.5, 1e-6) == pytest.approx(0.5, abs=1e-6)
    assert chance(1e-6, 1e-6) == pytest.approx(1.0, abs=1e-6)


def test_room_helps_and_doubt_above_hurts() -> None:
    assert chance(0.2, 0.02) > chance(0.4, 0.02) > chance(0.4, 0.03)
    assert chance(0.2, 0.02, sd=(0.5, 1.0)) < chance(0.2, 0.02)
    assert chance(0.2, 0.02, sd=(2.0, 0.5)) == pytest.approx(chance(0.2, 0.02))
    assert chance(0.2, 0.02, spare=1.05) < chance(0.2, 0.02)


def test_every_plan_under_a_level_says_its_chance_and_one_is_sure(service, pool_of) -> None:
    traffic = Traffic(input=lengths(1000, 1000), output=lengths(200, 200), rate=1.0)
    task = service(traffic=traffic, level=ServiceLevel(ttft_s=5.0, tpot_s=0.2))
    plans = match_service(task, [pool_of("h100")]).plans
    assert all(0.3 < plan.service.estimate.kept <= 1.0 for plan in plans)
    assert max(plan.service.estimate.kept for plan in plans) > 0.9
    free = match_service(service(traffic=traffic, level=ServiceLevel()), [pool_of("h100")]).plans
    assert all(plan.service.estimate.kept is None for plan in free)


def test_what_does_not_fit_needs_more_than_there_is(service, pool_of) -> None:
    traffic = Traffic(input=lengths(4000, 30000), output=lengths(500, 2000), rate=1.0)
    found = match_service(service(traffic=traffic), [pool_of("h100")])
    rows = [row for row in found.rejections if row.code is Reason.MEMORY]
    assert rows
    for row in rows:
        assert row.need > row.have
        assert "key-value cache of one request" in row.hint
