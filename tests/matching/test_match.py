"""The search: what is feasible, how it is ranked, and why the rest is not there."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mofang.domain.codec import decode, encode
from mofang.domain.hardware import Pool, Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.plan import MatchResult, Plan
from mofang.domain.reasons import Reason, precedence
from mofang.domain.scenario import Command, Finetune, Goal, Limits, Resources, Scenario, StrategyChoice, TextData
from mofang.domain.strategy import Method, Offload, Recompute, Sharding
from mofang.errors import UsageError
from mofang.matching import estimate_rows, match, rejection_row
from mofang.matching.shortlist import TIGHT
from mofang.matching.totals import device_limit
from mofang.matching.unmeasured import untried_deviation
from mofang.units import DeviceRequest, Range

Build = Callable[..., Scenario]
PROPERTY = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EVERYTHING = 100_000


def test_the_same_question_has_the_same_answer(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    scenario = pretrain(llama_7b, global_batch=256)
    assert match(scenario, [h100]) == match(scenario, [h100])


def test_a_result_survives_the_wire(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    result = match(pretrain(llama_7b, global_batch=256), [h100])
    assert decode(MatchResult, encode(result)) == result


@PROPERTY
@given(batch=st.integers(1, 96), devices=st.integers(1, 32), sequence=st.sampled_from([128, 1024, 4096]))
def test_every_plan_is_whole_and_fits(
    pretrain: Build, llama_7b: ModelArchitecture, h100: Pool, batch: int, devices: int, sequence: int
):
    pool = replace(h100, counts=Range(1, devices))
    scenario = pretrain(llama_7b, global_batch=batch, sequence=sequence)
    result = match(scenario, [pool], num_plans=EVERYTHING)
    for plan in result.plans:
        plan.strategy.check_batch(batch)
        estimate = plan.estimate
        assert estimate is not None
        assert plan.placement.num_devices in pool.counts
        assert estimate.memory_bytes <= device_limit(pool)
        assert sum(estimate.memory.values()) == pytest.approx(estimate.memory_bytes)
        assert sum(estimate.time.values()) == pytest.approx(estimate.step_time_s)
        assert estimate.step_time_90.low < estimate.step_time_s < estimate.step_time_90.high
        flops = llama_7b.train_flops_per_token(sequence) * batch * sequence
        assert estimate.step_time_s >= flops / estimate.peak_flops
        assert 0 < estimate.mfu < 1


@PROPERTY
@given(factor=st.floats(1.0, 8.0), which=st.sampled_from(["memory_bandwidth", "intra", "inter", "peak"]))
def test_faster_hardware_is_never_slower(
    pretrain: Build, llama_7b: ModelArchitecture, h100: Pool, factor: float, which: str
):
    chip = h100.accelerator
    if which == "memory_bandwidth":
        better = replace(h100, accelerator=replace(chip, memory_bandwidth=chip.memory_bandwidth * factor))
    elif which == "peak":
        peaks = {precision: peak * factor for precision, peak in chip.peak_flops.items()}
        better = replace(h100, accelerator=replace(chip, peak_flops=peaks))
    else:
        link = getattr(h100, which)
        better = replace(h100, **{which: replace(link, bandwidth=link.bandwidth * factor)})
    scenario = pretrain(llama_7b, global_batch=32)
    few = [replace(pool, counts=Range(4, 32)) for pool in (h100, better)]
    before, after = (match(scenario, [pool], num_plans=EVERYTHING).plans for pool in few)
    times = {(plan.strategy, plan.placement): plan.estimate.step_time_s for plan in before}
    assert len(before) == len(after)
    for plan in after:
        assert plan.estimate.step_time_s <= times[plan.strategy, plan.placement] * (1 + 1e-9)


@PROPERTY
@given(gigabytes=st.integers(20, 200), more=st.integers(0, 100))
def test_more_memory_never_means_fewer_plans(
    pretrain: Build, llama_7b: ModelArchitecture, h100: Pool, gigabytes: int, more: int
):
    def count(size: int) -> int:
        pool = replace(h100, counts=Range(1, 16), accelerator=replace(h100.accelerator, memory_bytes=size * 10**9))
        return len(match(pretrain(llama_7b), [pool], num_plans=EVERYTHING).plans)

    assert count(gigabytes + more) >= count(gigabytes)


def counted(plan: Plan, value: float) -> float:
    """Return what a plan counts as: what is unsure of it makes it worse."""
    return (
        value * (TIGHT if plan.estimate.tight else 1.0) * math.exp(untried_deviation() * len(plan.estimate.unmeasured))
    )


def test_plans_are_ranked_by_time_and_the_best_is_first(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    scenario = pretrain(llama_7b, global_batch=256)
    few = match(scenario, [h100]).plans
    every = match(scenario, [h100], num_plans=EVERYTHING).plans
    for plans in (few, every):
        times = [counted(plan, plan.estimate.total_time_s) for plan in plans]
        assert times == sorted(times)
    assert few[0] == every[0]


def test_a_job_may_also_run_on_fewer_devices(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    plans = match(pretrain(llama_7b, global_batch=256), [h100]).plans
    assert len({plan.placement.num_devices for plan in plans}) > 1


def test_cost_ranks_by_money_and_an_unknown_price_is_not_free(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    priced = replace(h100, price_per_device_hour=2.0, counts=Range(8, 64))
    scenario = pretrain(llama_7b, global_batch=256, goal=Goal.COST)
    plans = match(scenario, [h100, priced], num_plans=EVERYTHING).plans
    known = [counted(plan, plan.estimate.cost) for plan in plans if plan.estimate.cost is not None]
    assert known == sorted(known)
    assert plans[0].estimate.cost is not None
    assert plans[-1].estimate.cost is None
    hours = plans[0].estimate.total_time_s / 3600
    assert plans[0].estimate.cost == pytest.approx(hours * plans[0].placement.num_devices * 2.0)


def test_limits_are_kept_and_say_so(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    free = match(pretrain(llama_7b, global_batch=256), [h100], num_plans=EVERYTHING)
    middle = free.plans[len(free.plans) // 2].estimate.total_time_s
    scenario = pretrain(llama_7b, global_batch=256, limits=Limits(deadline_s=middle))
    bound = match(scenario, [h100], num_plans=EVERYTHING)
    assert all(plan.estimate.total_time_s <= middle for plan in bound.plans)
    late = next(row for row in bound.rejections if row.code is Reason.DEADLINE)
    assert late.have == middle
    assert late.need > middle
    assert late.candidates == len(free.plans) - len(bound.plans)


def test_a_duration_becomes_steps(pretrain: Build, small: ModelArchitecture, cores: Pool):
    scenario = pretrain(small, global_batch=16, steps=None, duration_s=90.0, validate_every=0)
    for plan in match(scenario, [cores]).plans:
        assert plan.steps == max(1, int(90.0 / plan.estimate.step_time_s))
        assert plan.estimate.total_time_s <= 90.0 or plan.steps == 1


def test_compiling_pays_only_in_a_long_run(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    def compiled(seconds: float) -> bool:
        scenario = pretrain(llama_7b, global_batch=64, steps=None, duration_s=seconds)
        (plan,) = match(scenario, [h100], num_plans=1).plans
        assert plan.estimate.total_time_s <= seconds * 1.01
        return plan.strategy.compile

    assert not compiled(90.0)
    assert compiled(7200.0)


def test_what_the_user_fixes_is_fixed(pretrain: Build, small: ModelArchitecture, cores: Pool):
    choice = StrategyChoice(
        workers=2,
        threads=1,
        sharding=Sharding.FSDP,
        precision=Precision.FP32,
        recompute=Recompute.FULL,
        micro_batch=4,
    )
    (plan,) = match(pretrain(small, global_batch=16, strategy=choice), [cores]).plans
    assert (plan.workers, plan.strategy.threads, plan.strategy.accumulation) == (2, 1, 2)
    assert (plan.strategy.sharding, plan.strategy.recompute) == (Sharding.FSDP, Recompute.FULL)


def test_one_rank_has_no_sharding(pretrain: Build, small: ModelArchitecture, cores: Pool):
    alone = replace(cores, counts=Range(1, 1))
    plans = match(pretrain(small, global_batch=4), [alone], num_plans=EVERYTHING).plans
    assert {plan.strategy.sharding for plan in plans} == {Sharding.NONE}
    assert len(plans) == len({plan.strategy for plan in plans})


@pytest.mark.parametrize("degree", ["tp", "pp", "cp"])
def test_a_cut_that_the_recipe_cannot_make_is_refused(
    pretrain: Build, small: ModelArchitecture, cores: Pool, h100: Pool, degree: str
):
    asked = StrategyChoice(**{degree: 2})
    for pool, framework in ((cores, None), (h100, "gpt")):
        result = match(pretrain(small, strategy=asked, framework=framework), [pool])
        assert result.plans == ()
        assert [row.code for row in result.rejections] == [Reason.PARALLELISM]
        assert f"{degree} = 2" in result.rejections[0].what


@pytest.mark.parametrize("degree", ["tp", "pp", "cp"])
def test_a_cut_that_a_framework_makes_is_planned(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool, degree: str):
    asked = StrategyChoice(**{degree: 2})
    plans = match(pretrain(llama_7b, strategy=asked, framework=None, global_batch=64), [h100]).plans
    assert plans
    assert {getattr(plan.strategy.parallelism, degree) for plan in plans} == {2}
    assert "gpt" not in {plan.strategy.framework for plan in plans}


def test_too_large_says_what_would_fit(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    one = replace(h100, counts=Range(1, 1))
    result = match(pretrain(llama_7b, global_batch=8), [one])
    assert result.plans == ()
    (row,) = result.rejections
    assert row.code is Reason.MEMORY
    assert row.need > row.have
    assert row.hint.startswith("would fit with 2 x NVIDIA H100-SXM-80GB, fsdp, bf16, micro-batch")
    assert rejection_row(row)["unit"] == "bytes"


def test_too_large_for_host_memory(pretrain: Build, llama_7b: ModelArchitecture, cores: Pool):
    result = match(pretrain(llama_7b, global_batch=2), [cores])
    assert result.plans == ()
    assert result.rejections[0].code is Reason.MEMORY


def test_precisions_a_chip_lacks(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    old = replace(h100, accelerator=replace(h100.accelerator, peak_flops={Precision.FP32: 15e12}))
    refused = match(pretrain(llama_7b, strategy=StrategyChoice(precision=Precision.BF16)), [old])
    assert [row.code for row in refused.rejections] == [Reason.PRECISION]
    free = match(pretrain(llama_7b), [old])
    assert {plan.strategy.precision for plan in free.plans} == {Precision.FP32}


def test_requests_nobody_can_meet(pretrain: Build, small: ModelArchitecture, cores: Pool):
    wanted = (DeviceRequest("H100", Range(8, 8)), DeviceRequest("cpu", Range(64, 64)))
    result = match(pretrain(small, resources=Resources(any_of=wanted)), [cores])
    assert result.plans == ()
    assert [row.code for row in result.rejections] == [Reason.NO_SUCH_DEVICE, Reason.TOO_FEW_DEVICES]
    assert (result.rejections[1].need, result.rejections[1].have) == (64, 2)
    nothing = match(pretrain(small), [])
    assert [row.code for row in nothing.rejections] == [Reason.NO_SUCH_DEVICE]


def test_ordered_alternatives_keep_their_order(pretrain: Build, small: ModelArchitecture, cores: Pool, h100: Pool):
    chips = replace(h100, cluster="far")
    wanted = (DeviceRequest("cpu", Range(1, 2)), DeviceRequest("H100", Range(1, 8)))
    either = match(pretrain(small, global_batch=8, resources=Resources(any_of=wanted)), [cores, chips])
    ordered = match(pretrain(small, global_batch=8, resources=Resources(any_of=wanted, ordered=True)), [cores, chips])
    assert either.plans[0].placement.accelerator != "cpu"
    assert ordered.plans[0].placement.accelerator == "cpu"


def test_a_batch_that_does_not_divide(pretrain: Build, small: ModelArchitecture, cores: Pool):
    choice = StrategyChoice(workers=2)
    result = match(pretrain(small, global_batch=7, strategy=choice), [cores])
    assert result.plans == ()
    (row,) = result.rejections
    assert (row.code, row.have, row.need) == (Reason.BATCH, 7, 8)


def test_rejections_come_in_order_of_precedence(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    wanted = pretrain(llama_7b, global_batch=24, limits=Limits(deadline_s=60.0))
    codes = [precedence(row.code) for row in match(wanted, [h100]).rejections]
    assert codes == sorted(codes)
    assert len(codes) > 1


def test_a_command_gets_a_place_and_no_estimate(cores: Pool, h100: Pool):
    scenario = Scenario(name="own", task=Command(argv=("./train",), workers=2, cores_per_worker=1))
    (plan,) = match(scenario, [cores, replace(h100, cluster="far")]).plans
    assert plan.estimate is None
    assert plan.steps is None
    assert (plan.workers, plan.placement.num_devices, plan.placement.accelerator) == (2, 2, "cpu")
    chips = replace(scenario, resources=Resources(any_of=(DeviceRequest("H100", Range(2, 2)),)))
    (plan,) = match(chips, [cores, replace(h100, cluster="far")]).plans[:1]
    assert (plan.workers, plan.placement.num_devices) == (2, 2)


def test_a_command_that_needs_too_many_cores(cores: Pool):
    scenario = Scenario(name="own", task=Command(argv=("./train",), workers=2, cores_per_worker=4))
    result = match(scenario, [cores])
    assert result.plans == ()
    assert (result.rejections[0].code, result.rejections[0].need) == (Reason.TOO_FEW_DEVICES, 8)


def test_at_least_one_plan_must_be_asked_for(cores: Pool, pretrain: Build, small: ModelArchitecture):
    with pytest.raises(UsageError):
        match(pretrain(small), [cores], num_plans=0)


def test_parts_are_explained_largest_first(pretrain: Build, small: ModelArchitecture, cores: Pool):
    estimate = match(pretrain(small, global_batch=8), [cores]).plans[0].estimate
    rows = estimate_rows(estimate)
    for of in ("time", "memory"):
        values = [row["value"] for row in rows if row["of"] == of]
        assert values == sorted(values, reverse=True)
        assert sum(row["share"] for row in rows if row["of"] == of) == pytest.approx(1.0)
    assert estimate.evidence


def test_each_method_has_its_best_plan_or_its_reason(h100: Pool, llama_7b: ModelArchitecture):
    task = Finetune(
        model=replace(llama_7b, layers=160),
        model_path=None,
        data=TextData(paths=("text",)),
        sequence=2048,
        global_batch=16,
        steps=10,
        strategy=StrategyChoice(offload=Offload.NONE),
    )
    result = match(Scenario(name="tune", task=task), [replace(h100, counts=Range(4, 4))])
    assert {plan.strategy.method for plan in result.plans} == {Method.LORA, Method.QLORA}
    notes = [row.what for row in result.plans[0].estimate.evidence]
    assert any("does not weigh quality" in note for note in notes)
    refused = [row for row in result.rejections if row.code is Reason.MEMORY]
    assert any("lora" not in row.what and row.hint.startswith("would fit with") for row in refused)
