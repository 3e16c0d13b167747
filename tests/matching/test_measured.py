"""Predictions from a probed host reproduce what was probed, and lie sensibly between."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mofang.domain.hardware import Pool, Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.rates import Operator, Phase
from mofang.domain.scenario import Scenario, StrategyChoice
from mofang.domain.strategy import Sharding
from mofang.matching import match
from mofang.matching.speed import measured_speed
from mofang.matching.workers import peak_flops


def test_between_measurements_a_constant_rate_stays_constant(cores: Pool):
    speed = measured_speed(cores.rates, device="cpu", precision=Precision.FP32, workers=1, threads=1)
    shapes = np.array([[128, 128, 128], [300, 700, 900], [2048, 2048, 2048]], dtype=float)
    rate = 2 * shapes.prod(axis=1) / speed.seconds(Operator.LINEAR, Phase.FORWARD, shapes)
    assert rate == pytest.approx(np.full(3, 50e9), rel=0.12)


def test_never_above_the_best_rate_seen(cores: Pool):
    speed = measured_speed(cores.rates, device="cpu", precision=Precision.FP32, workers=1, threads=1)
    shapes = np.array([[8192.0, 8192.0, 8192.0], [4096.0, 1.0, 4096.0]])
    assert (2 * shapes.prod(axis=1) / speed.seconds(Operator.LINEAR, Phase.FORWARD, shapes) <= 50e9 * 1.0001).all()


def test_a_setting_that_was_not_measured_scales_from_the_nearest(cores: Pool):
    shape = np.array([[512.0, 512.0, 512.0]])

    def seconds(threads: int) -> float:
        speed = measured_speed(cores.rates, device="cpu", precision=Precision.FP32, workers=1, threads=threads)
        return float(speed.seconds(Operator.LINEAR, Phase.FORWARD, shape)[0])

    assert seconds(8) == pytest.approx(seconds(2) / 4)


def test_slow_bf16_is_found_out(pretrain: Callable[..., Scenario], small: ModelArchitecture, cores: Pool):
    plans = match(pretrain(small, global_batch=8), [cores]).plans
    assert plans[0].strategy.precision is Precision.FP32
    assert peak_flops(cores, Precision.BF16) < peak_flops(cores, Precision.FP32) == pytest.approx(50e9)


def test_two_workers_pay_for_communication(pretrain: Callable[..., Scenario], small: ModelArchitecture, cores: Pool):
    def communication(workers: int, sharding: Sharding | None) -> float:
        choice = StrategyChoice(workers=workers, threads=1, sharding=sharding, precision=Precision.FP32, micro_batch=2)
        return match(pretrain(small, global_batch=8, strategy=choice), [cores]).plans[0].estimate.time["data-parallel"]

    assert communication(1, None) == 0.0
    bytes_reduced = 4.0 * small.params
    assert communication(2, Sharding.DDP) == pytest.approx(3e-4 + bytes_reduced / 1e9)
    assert communication(2, Sharding.FSDP) > communication(2, Sharding.DDP)


def test_a_host_nobody_probed_still_gets_a_plan_with_a_wide_interval(
    pretrain: Callable[..., Scenario], small: ModelArchitecture, cores: Pool
):
    scenario = pretrain(small, global_batch=8)
    known, unknown = (match(scenario, [pool]).plans[0].estimate for pool in (cores, replace(cores, rates=None)))

    def width(estimate: object) -> float:
        return estimate.step_time_90.high / estimate.step_time_90.low

    assert width(unknown) > width(known)
    assert any("doctor" in item.source for item in unknown.evidence)
