"""The search for a service: what it finds, in which order, and what it says where it finds nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mofang.domain.hardware import Precision
from mofang.domain.plan import Role
from mofang.domain.reasons import Reason
from mofang.domain.scenario import Goal, ServiceLevel, StrategyChoice, Traffic
from mofang.errors import UsageError
from mofang.matching.serving import match_service

from .conftest import lengths


def reasons(result) -> set[Reason]:
    return {rejection.code for rejection in result.rejections}


def test_plans_keep_the_level_and_the_rate(service, pool_of) -> None:
    result = match_service(service(), [pool_of("h100", 1, 16)], 6)
    assert 1 <= len(result.plans) <= 6
    for plan in result.plans:
        found = plan.service.estimate
        assert found.ttft_s <= found.ttft_tail_s <= 1.0
        assert found.tpot_s <= found.tpot_tail_s <= 0.05
        assert found.requests_per_s == pytest.approx(4.0)
        assert found.max_requests_per_s > 4.0
        assert found.tpot_90.low < found.tpot_s < found.tpot_90.high
        assert plan.steps is None


def test_the_best_under_a_level_needs_the_fewest_devices(service, pool_of) -> None:
    plans = match_service(service(), [pool_of("h100", 1, 16)], 8).plans
    sizes = [sum(part.placement.num_devices for part in plan.parts) or plan.placement.num_devices for plan in plans]
    assert sizes[0] == min(sizes)


def test_an_impossible_level_says_what_is_possible(service, pool_of) -> None:
    result = match_service(service(level=ServiceLevel(tpot_s=0.001)), [pool_of("h100")])
    assert not result.plans
    refusal = next(one for one in result.rejections if one.code is Reason.SERVICE_LEVEL)
    assert refusal.have == 0.001
    assert 0.001 < refusal.need < 0.05
    assert "best time per token" in refusal.hint


def test_too_much_traffic_says_how_much_is_served(service, pool_of) -> None:
    traffic = Traffic(input=lengths(1000, 1000), output=lengths(1000, 1000), rate=1000.0)
    result = match_service(service(traffic=traffic), [pool_of("h100")])
    refusal = next(one for one in result.rejections if one.code is Reason.SERVICE_LEVEL)
    assert refusal.need == 1000.0
    assert 1.0 < refusal.have < 200.0
    assert refusal.data["figure"] == "requests/s"


def test_a_model_too_large_is_refused_with_its_parts(service, pool_of) -> None:
    result = match_service(service(), [pool_of("l40s", 1, 1)])
    assert not result.plans
    assert reasons(result) == {Reason.MEMORY}
    refusal = result.rejections[0]
    assert refusal.need > refusal.have
    assert refusal.data["weights"] > 60e9


def test_formats_the_framework_lacks_are_refused(service, pool_of) -> None:
    result = match_service(service(precision=Precision.TF32), [pool_of("h100")])
    assert not result.plans
    assert Reason.PRECISION in reasons(result)


def test_a_cut_that_does_not_divide_is_refused(service, pool_of) -> None:
    result = match_service(service(strategy=StrategyChoice(tp=3)), [pool_of("h100")])
    assert not result.plans
    assert Reason.PARALLELISM in reasons(result)


def test_frameworks_run_only_on_their_vendors(service, pool_of) -> None:
    result = match_service(service(strategy=StrategyChoice(framework="tensorrt-llm")), [pool_of("mi300x")])
    assert not result.plans
    assert reasons(result) == {Reason.FRAMEWORK}


def test_more_replicas_answer_a_heavier_rate(service, pool_of) -> None:
    def devices(rate: float) -> int:
        traffic = Traffic(input=lengths(500, 2000), output=lengths(100, 500), rate=rate)
        found = match_service(service(traffic=traffic, disaggregated=False), [pool_of("h100", 1, 256)], 1)
        return found.plans[0].placement.num_devices

    assert devices(4.0) <= devices(40.0) <= devices(200.0)
    assert devices(4.0) < devices(200.0)


def test_divided_services_have_both_roles(service, pool_of) -> None:
    pools = [pool_of("h100", 1, 16), pool_of("h20", 1, 16)]
    result = match_service(service(disaggregated=True), pools, 4)
    assert result.plans
    for plan in result.plans:
        assert {part.role for part in plan.parts} == {Role.PREFILL, Role.DECODE}
        assert plan.service.estimate.max_requests_per_s >= 4.0
        for part in plan.parts:
            assert part.placement.num_devices == part.replicas * part.parallelism.world_size


def test_cost_ranks_by_price(service, pool_of) -> None:
    cheap = replace(pool_of("h200"), price_per_device_hour=1.0)
    dear = replace(pool_of("h100"), price_per_device_hour=40.0)
    result = match_service(service(goal=Goal.COST, disaggregated=False), [dear, cheap], 4)
    assert result.plans[0].placement.accelerator == cheap.accelerator.name
    assert result.plans[0].service.estimate.cost_per_million_tokens > 0


def test_without_a_price_cost_is_unknown(service, pool_of) -> None:
    pool = replace(pool_of("h100"), price_per_device_hour=None)
    plan = match_service(service(goal=Goal.COST), [pool], 1).plans[0]
    assert plan.service.estimate.cost_per_million_tokens is None
    assert any("unknown" in one.what for one in plan.service.estimate.evidence)


def test_a_chip_nobody_measured_is_less_sure_and_says_so(service, pool_of) -> None:
    traffic = Traffic(input=lengths(1000, 1000), output=lengths(500, 500), concurrency=8)
    task = {"traffic": traffic, "level": ServiceLevel(), "strategy": StrategyChoice(framework="vllm")}
    known, unknown = (
        match_service(service(**task), [pool_of(name)], 1).plans[0].service.estimate for name in ("h100", "TPU v6e")
    )
    wide = unknown.tpot_90.high / unknown.tpot_90.low
    assert wide > 1.5 * known.tpot_90.high / known.tpot_90.low
    assert any("nobody's measurement" in one.what for one in unknown.evidence)
    assert not any("nobody's measurement" in one.what for one in known.evidence)


def test_every_plan_names_measurements(service, pool_of) -> None:
    found = match_service(service(), [pool_of("h100")], 1).plans[0].service.estimate
    near = [one for one in found.evidence if one.distance is not None]
    assert len(near) == 3
    assert all(one.source for one in near)
    assert [one.distance for one in near] == sorted(one.distance for one in near)


def test_saturated_services_serve_the_most(service, pool_of) -> None:
    traffic = Traffic(input=lengths(1000, 1000), output=lengths(1000, 1000))
    plans = match_service(service(traffic=traffic, level=ServiceLevel()), [pool_of("h200")], 6).plans
    speeds = [plan.service.estimate.tokens_per_s for plan in plans]
    assert speeds == sorted(speeds, reverse=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"traffic": Traffic(input=lengths(1, 2), output=lengths(1, 2), rate=1.0, concurrency=2)},
        {"traffic": Traffic(input=lengths(1, 2), output=lengths(1, 2), rate=-1.0)},
        {"level": ServiceLevel(ttft_s=0.0)},
        {"level": ServiceLevel(percentile=1.0)},
    ],
)
def test_bad_input_is_one_line(service, pool_of, changes: dict) -> None:
    with pytest.raises(UsageError) as error:
        match_service(service(**changes), [pool_of("h100")])
    assert "\n" not in error.value.message
    assert error.value.hint
