"""What would change the answer: directions and signs."""

from collections.abc import Callable
from dataclasses import replace

from mofang.domain.hardware import Pool
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Scenario
from mofang.matching import match, sensitivities
from mofang.units import Range

Build = Callable[..., Scenario]


def test_sensitivities_point_the_right_way(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    pool = replace(h100, counts=Range(16, 16))
    scenario = pretrain(llama_7b, framework=None, global_batch=96, validate_every=0)
    rows = sensitivities(scenario, [pool], match(scenario, [pool]).plans[0])
    gains = {row.what.partition(":")[0]: row.gain for row in rows}
    assert gains["twice the network"] >= 0.0 >= gains["half the network"]
    assert gains["more memory"] >= 0.0
    assert 0.5 < gains["32 devices instead of 16"] <= 1.05
    assert -0.6 < gains["8 devices instead of 16"] < 0.0
    assert [row.gain for row in rows] == sorted((row.gain for row in rows), reverse=True)


def test_nothing_is_said_of_hardware_that_the_plan_does_not_use(
    pretrain: Build, small: ModelArchitecture, cores: Pool, h100: Pool
):
    scenario = pretrain(small, global_batch=8)
    assert sensitivities(scenario, [h100], match(scenario, [cores]).plans[0]) == ()
