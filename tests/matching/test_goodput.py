"""Time lost on the way: Daly's formula, published fleets, and nothing where nothing is known."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mofang.domain.hardware import Pool
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Scenario
from mofang.matching import match
from mofang.matching.goodput import Losses, losses, operations
from mofang.matching.work import work_of
from mofang.units import Range

Build = Callable[..., Scenario]
DAY = 86400.0


@pytest.fixture
def lost(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool) -> Callable[..., Losses]:
    def build(devices: int, run: float, params: float = 1.0) -> Losses:
        work = work_of(pretrain(replace(llama_7b, layers=max(1, round(32 * params)))).task)
        one = np.array([devices])
        return losses(work, h100, devices=one, nodes=one // 8, step=np.array([10.0]), run=np.array([run]))

    return build


def test_the_fault_rate_is_that_of_the_published_fleet():
    faults = operations().fault_rate * 16384 * 54 * DAY
    assert faults == pytest.approx(419)


def test_a_fleet_of_16384_keeps_over_nine_tenths(lost: Callable[..., Losses]):
    """Llama 3 reports over 90 % effective training time on 16,384 H100 (arXiv:2407.21783, section 3.3.4)."""
    found = lost(16384, 54 * DAY, params=50)
    goodput = 54 * DAY / (54 * DAY + float(found.seconds[0]))
    assert 0.85 < goodput < 0.97


def test_a_small_job_loses_next_to_nothing(lost: Callable[..., Losses]):
    assert float(lost(8, 3600.0).seconds[0]) < 0.01 * 3600.0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(devices=st.integers(8, 10**5), hours=st.floats(0.1, 2000.0), size=st.floats(0.1, 60.0))
def test_the_interval_is_the_best_one(lost: Callable[..., Losses], devices: int, hours: float, size: float):
    run = hours * 3600.0
    found = lost(devices, run, params=size)
    between = 1.0 / (devices * operations().fault_rate)
    halt = float(found.checkpoints[0]) * float(found.interval[0]) / run

    def whole(interval: float) -> float:
        restart = math.exp(operations().restart_s / between)
        return between * restart * math.expm1((interval + halt) / between) * run / interval

    best = float(found.interval[0])
    assert best <= run * (1 + 1e-12)
    total = run + float(found.checkpoints[0] + found.faults[0])
    assert total == pytest.approx(whole(best), rel=1e-9)
    for other in (best * 0.7, best * 1.4):
        if other <= run and best < run * 0.99:
            assert whole(other) >= whole(best) * (1 - 2e-3) or other < best


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(devices=st.integers(8, 10**5))
def test_more_devices_lose_a_larger_part(lost: Callable[..., Losses], devices: int):
    assert lost(2 * devices, 30 * DAY).faults[0] >= lost(devices, 30 * DAY).faults[0]


def test_processor_cores_lose_nothing_and_say_nothing(pretrain: Build, small: ModelArchitecture, cores: Pool):
    estimate = match(pretrain(small, global_batch=8, validate_every=0), [cores]).plans[0].estimate
    assert estimate.goodput == 1.0
    assert estimate.total_time_s == pytest.approx(100 * estimate.step_time_s)
    assert not any("fault" in row.what for row in estimate.evidence)


def test_the_total_counts_what_is_lost(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    wide = replace(h100, counts=Range(64, 64))
    scenario = pretrain(llama_7b, global_batch=64, steps=100_000, validate_every=0)
    estimate = match(scenario, [wide]).plans[0].estimate
    run = 100_000 * estimate.step_time_s
    assert 0.9 < estimate.goodput < 1.0
    assert estimate.total_time_s * estimate.goodput == pytest.approx(run, rel=1e-2)
    assert any(row.what.startswith("time to finish: faults") for row in estimate.evidence)
