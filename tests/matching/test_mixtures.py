"""One job on two kinds of chips, and what else could change."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mofang.domain.hardware import Pool, Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.plan import Role
from mofang.domain.scenario import Scenario, StrategyChoice
from mofang.matching import match
from mofang.matching.mixed_plans import mixed_plan
from mofang.matching.mixtures import Mixture, mixtures
from mofang.matching.options import find_options
from mofang.matching.work import work_of
from mofang.units import Range

Build = Callable[..., Scenario]
PROPERTY = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def fleet(h100: Pool) -> Callable[..., list[Pool]]:
    def build(first: int = 16, second: int = 16, speed: float = 0.5) -> list[Pool]:
        chip = h100.accelerator
        peaks = {Precision.BF16: chip.peak_flops[Precision.BF16] * speed}
        slower = replace(chip, name="other", aliases=(), peak_flops=peaks)
        return [
            replace(h100, cluster="site", counts=Range(1, first)),
            replace(h100, cluster="site", accelerator=slower, counts=Range(1, second)),
        ]

    return build


def found(scenario: Scenario, pools: list[Pool]) -> list[Mixture]:
    options, _ = find_options(scenario, pools)
    return list(mixtures(scenario, work_of(scenario.task), options))


@PROPERTY
@given(
    first=st.sampled_from([8, 16]),
    second=st.sampled_from([8, 16]),
    speed=st.floats(0.3, 1.0),
    batch=st.sampled_from([48, 64, 120]),
)
def test_a_mixture_is_shown_only_where_it_is_better(
    pretrain: Build,
    llama_7b: ModelArchitecture,
    fleet: Callable[..., list[Pool]],
    first: int,
    second: int,
    speed: float,
    batch: int,
):
    pools = fleet(first, second, speed)
    scenario = pretrain(llama_7b, framework=None, global_batch=batch, validate_every=0)
    plans = match(scenario, pools).plans
    together = plans[0]
    alone = [match(scenario, [pool], num_plans=1).plans for pool in pools]
    best = min(own[0].estimate.total_time_s for own in alone if own)
    assert together.estimate.total_time_s <= best * (1 + 1e-9)
    if together.parts:
        assert together.estimate.total_time_s < best
    for plan in plans:
        if plan.parts:
            assert sum(part.share for part in plan.parts) == pytest.approx(1.0)
            assert all(0 < part.share < 1 for part in plan.parts)


def test_equal_halves_share_evenly(pretrain: Build, llama_7b: ModelArchitecture, fleet: Callable[..., list[Pool]]):
    scenario = pretrain(llama_7b, framework=None, global_batch=64, validate_every=0)
    pools = fleet(16, 16, speed=1.0)
    for mixture in found(scenario, pools):
        assert [half.share for half in mixture.halves] == pytest.approx([0.5, 0.5], abs=0.1)
    (alone,) = match(scenario, pools[:1], num_plans=1).plans
    assert min(one.step for one in found(scenario, pools)) < 0.7 * alone.estimate.step_time_s


def test_both_kinds_of_mixture_make_whole_plans(
    pretrain: Build, llama_7b: ModelArchitecture, fleet: Callable[..., list[Pool]]
):
    scenario = pretrain(llama_7b, framework=None, global_batch=60, validate_every=0)
    rows = found(scenario, fleet(16, 8))
    assert {one.role for one in rows} == {Role.STAGES, Role.REPLICAS}
    for one in rows:
        plan = mixed_plan(scenario, work_of(scenario.task), one)
        estimate = plan.estimate
        assert sum(part.share for part in plan.parts) == pytest.approx(1.0)
        assert sum(estimate.time.values()) == pytest.approx(estimate.step_time_s)
        assert estimate.step_time_90.low < estimate.step_time_s < estimate.step_time_90.high
        devices = [part.placement.num_devices for part in plan.parts]
        assert sorted(devices) == [8, 16]
        layers = [part.share * llama_7b.layers for part in plan.parts]
        sequences = [part.share * 60 for part in plan.parts]
        whole = layers if one.role is Role.STAGES else sequences
        assert whole == pytest.approx([round(size) for size in whole])


def test_no_mixture_of_clusters_of_cores_or_where_workers_are_fixed(
    pretrain: Build, llama_7b: ModelArchitecture, cores: Pool, fleet: Callable[..., list[Pool]]
):
    scenario = pretrain(llama_7b, framework=None, global_batch=64)
    first, second = fleet()
    apart = [first, replace(second, cluster="elsewhere")]
    assert found(scenario, apart) == []
    assert found(scenario, [replace(pool, cluster="local") for pool in (first, second)]) == []
    assert found(scenario, [replace(first, cluster=cores.cluster), cores]) == []
    fixed = pretrain(llama_7b, framework=None, global_batch=64, strategy=StrategyChoice(workers=16))
    assert found(fixed, [first, second]) == []
