"""What is shown of the best candidates: different choices before near-twins, the sure before the unsure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.domain.hardware import Pool, Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Scenario
from mofang.domain.strategy import Offload, Parallelism, Sharding, Strategy
from mofang.matching import match
from mofang.matching.headroom import is_tight, memory_error
from mofang.matching.shortlist import picked
from mofang.matching.unmeasured import unmeasured, untried_deviation
from mofang.units import Range

Build = Callable[..., Scenario]


@settings(max_examples=50, deadline=None)
@given(kinds=st.lists(st.integers(0, 5), min_size=1, max_size=40), many=st.integers(1, 12))
def test_every_kind_has_a_place_before_any_twin(kinds: list[int], many: int):
    chosen = picked(range(len(kinds)), many, (lambda place: kinds[place], many))
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(many, len(kinds))
    assert chosen[0] == 0
    assert len({kinds[place] for place in chosen}) == min(many, len(set(kinds)))


def test_a_level_takes_no_more_places_than_it_may():
    kinds = list(range(20))
    assert picked(range(20), 6, (lambda place: kinds[place] // 10, 6), (lambda place: place, 3)) == [0, 1, 2, 3, 4, 10]


def test_memory_is_tight_within_the_error_of_the_model():
    assert 0.02 < memory_error() < 0.3
    limit = 80e9
    need = np.array([0.999 * limit, limit / (1.0 + 1.01 * memory_error()), 0.5 * limit])
    assert is_tight(need, limit).tolist() == [True, False, False]
    assert not is_tight(need, 0.0).any()


def strategy(framework: str = "megatron", offload: Offload = Offload.NONE, **degrees: int) -> Strategy:
    return Strategy(
        framework=framework,
        parallelism=Parallelism(**degrees),
        sharding=Sharding.ZERO1 if framework == "megatron" else Sharding.FSDP,
        precision=Precision.BF16,
        offload=offload,
    )


def test_what_nobody_measured_is_named():
    assert unmeasured(strategy(tp=8, pp=16)) == ()
    assert unmeasured(strategy(offload=Offload.OPTIMIZER)) == ("offload optimizer",)
    assert unmeasured(strategy("torchtitan", pp=16)) == ("pp 16 (at most 8)",)
    assert unmeasured(strategy("a framework that nobody measured", tp=64)) == ()
    assert 0.0 < untried_deviation() < 0.5


def test_frameworks_and_sizes_are_not_pushed_out_by_twins(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    pool = replace(h100, counts=Range(8, 64))
    plans = match(pretrain(llama_7b, global_batch=256, framework=None), [pool]).plans
    assert len({plan.strategy.framework for plan in plans}) >= 2
    assert len({plan.placement.num_devices for plan in plans}) >= 2
    assert len({plan.choice for plan in plans}) >= 6


def test_an_unmeasured_way_widens_the_interval_and_says_so(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    pool = replace(h100, counts=Range(8, 8))
    every = match(pretrain(llama_7b, global_batch=64, framework="megatron"), [pool], num_plans=10_000).plans

    def width(wanted: Offload) -> float:
        plan = next(one for one in every if one.strategy.offload is wanted)
        return plan.estimate.step_time_90.high / plan.estimate.step_time_90.low

    assert width(Offload.OPTIMIZER) > width(Offload.NONE)
    offloaded = next(one for one in every if one.strategy.offload is Offload.OPTIMIZER)
    assert any("no measurement with offload optimizer" in row.what for row in offloaded.estimate.evidence)
