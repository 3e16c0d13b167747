"""Nothing that is left out could have been shown."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mofang.clock import seeded
from mofang.domain.hardware import Accelerator, Link, Pool, Precision
from mofang.domain.model import MixtureOfExperts, ModelArchitecture
from mofang.domain.scenario import Goal, Pretrain, Scenario
from mofang.matching import match
from mofang.matching.bounds import bounds, coarse, frugal_ways
from mofang.matching.evaluation import Unit, evaluate, fitting
from mofang.matching.leaders import COLUMNS, Leaders, merged
from mofang.matching.options import Option
from mofang.matching.pareto import Front, undominated
from mofang.matching.units import units_of
from mofang.matching.work import work_of
from mofang.units import Range

Build = Callable[..., Scenario]
PROPERTY = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def chip(h100: Pool) -> Accelerator:
    peaks = {**h100.accelerator.peak_flops, Precision.FP8: 1979e12}
    return replace(h100.accelerator, peak_flops=peaks)


def problem(seed: int, chip: Accelerator, h100: Pool, pretrain: Build, goal: Goal) -> tuple[Scenario, list[Pool]]:
    """Return a drawn model, batch and pools."""
    chance = seeded(seed)
    heads = chance.choice([8, 16, 32])
    model = ModelArchitecture(
        name="drawn",
        layers=chance.choice([8, 12, 24, 30]),
        hidden=heads * 128,
        heads=heads,
        kv_heads=chance.choice([heads, heads // 4]),
        ffn=heads * 352,
        vocab=32000,
        head_dim=128,
        max_sequence=8192,
        moe=MixtureOfExperts(num_experts=8, top_k=2, expert_ffn=heads * 128) if chance.random() < 0.25 else None,
    )
    other = replace(
        chip, name="NVIDIA A100-SXM-80GB", peak_flops={Precision.BF16: 312e12}, memory_bandwidth=2.0e12, tdp_w=400.0
    )
    most = chance.choice([8, 16, 48])
    pools = [
        replace(h100, accelerator=chip, counts=Range(1, most), price_per_device_hour=chance.choice([None, 2.5])),
        replace(
            h100,
            accelerator=replace(other, memory_bytes=chance.choice([40, 80]) * 10**9),
            counts=Range(1, most),
            inter=Link(latency_s=2e-5, bandwidth=25e9),
            price_per_device_hour=1.2,
        ),
    ]
    scenario = pretrain(
        model,
        framework=None,
        goal=goal,
        sequence=chance.choice([2048, 8192]),
        global_batch=chance.choice([16, 48, 96]),
        validate_every=0,
    )
    return scenario, pools


def units(scenario: Scenario, pools: list[Pool]) -> Iterator[Unit]:
    for pool in pools:
        yield from units_of(scenario, work_of(scenario.task), Option(pool=pool, counts=pool.counts), first=0)[0]


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize("seed", range(4))
def test_the_pruned_search_finds_what_the_whole_one_finds(
    seed: int, goal: Goal, chip: Accelerator, h100: Pool, pretrain: Build
):
    scenario, pools = problem(seed, chip, h100, pretrain, goal)
    pruned, whole = (match(scenario, pools, prune=prune) for prune in (True, False))
    assert pruned.plans == whole.plans
    assert pruned.front == whole.front
    assert pruned.estimated <= whole.estimated
    assert pruned.candidates == whole.candidates


@PROPERTY
@given(seed=st.integers(0, 10**6))
def test_bounds_are_never_above_what_they_bound(seed: int, chip: Accelerator, h100: Pool, pretrain: Build):
    scenario, pools = problem(seed, chip, h100, pretrain, Goal.TIME)
    chance = np.random.default_rng(seed)
    for unit in units(scenario, pools):
        least_of_all = coarse(unit)
        for one in (part for part in unit.space.products if len(part)):
            rows = chance.integers(0, len(one.layouts), 40)
            pairs = one.crossed(rows, np.arange(len(one.ways)))
            total = evaluate(unit, one.take(*pairs)).totals
            found = bounds(unit, one)
            least = found.candidates(rows)
            for bound, actual in ((least.pace, total.pace), (least.cost, total.cost), (least.energy, total.energy_j)):
                if actual is not None:
                    assert (bound.ravel() <= actual * (1 + 1e-9)).all()
            assert (least_of_all.pace <= total.pace * (1 + 1e-9)).all()
            assert (least_of_all.energy <= total.energy_j * (1 + 1e-9)).all()
            by_layout = found.layouts().pace[rows]
            assert (by_layout[:, None] <= least.pace * (1 + 1e-12)).all()


@PROPERTY
@given(seed=st.integers(0, 10**6))
def test_the_frugal_ways_need_least_memory(seed: int, chip: Accelerator, h100: Pool, pretrain: Build):
    scenario, pools = problem(seed, chip, h100, pretrain, Goal.TIME)
    chance = np.random.default_rng(seed)
    for unit in units(scenario, pools):
        for one in (part for part in unit.space.products if len(part)):
            rows = chance.integers(0, len(one.layouts), 40)
            pairs = one.crossed(rows, np.arange(len(one.ways)))
            need = fitting(scenario, unit, one.take(*pairs)).device_bytes.reshape(len(rows), -1)
            frugal = need[:, frugal_ways(one.ways)].min(axis=1)
            assert (frugal <= need.min(axis=1) * (1 + 1e-9)).all()


@PROPERTY
@given(values=st.lists(st.integers(0, 6), min_size=1, max_size=60), cut=st.integers(0, 60), many=st.integers(1, 6))
def test_leaders_do_not_depend_on_the_order_of_offers(values: list[int], cut: int, many: int):
    rows = np.array([[value, value, index % 3, 1, 0, 0, index] for index, value in enumerate(values)], dtype=float)

    def kept(order: list[int]) -> np.ndarray:
        leaders = Leaders(many=many, groups=2)
        for part in (order[:cut], order[cut:]):
            some = rows[part].reshape(-1, len(COLUMNS))
            leaders.offer(
                some[:, 0], lambda some=some: some[:, 2].astype(int) * 8, lambda chosen, some=some: some[chosen]
            )
        return leaders.rows

    first, second = kept(list(range(len(values)))), kept(list(range(len(values)))[::-1])
    assert (first == second).all()
    assert (first == merged(rows, many, 2)).all()


@PROPERTY
@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=60), st.integers(0, 60))
def test_the_front_holds_what_nothing_dominates(rows: list[tuple[int, int, int]], cut: int):
    points = np.array(rows, dtype=float)
    keys = np.stack([np.zeros(len(rows)), np.arange(len(rows))], axis=1)
    front = Front(3)
    for part in (slice(0, cut), slice(cut, None)):
        some = front.may_join(points[part])
        front.add(points[part][some], keys[part][some])
    found, _ = front.ordered()
    expected = {
        row
        for row in rows
        if not any(other != row and all(a <= b for a, b in zip(other, row, strict=True)) for other in rows)
    }
    assert {tuple(point) for point in found.astype(int).tolist()} == expected
    assert len(found) == len(expected)
    assert len(undominated(points, keys)) == len(expected)


def test_the_best_of_every_goal_is_on_the_front(chip: Accelerator, h100: Pool, pretrain: Build):
    scenario, pools = problem(3, chip, replace(h100, price_per_device_hour=3.0), pretrain, Goal.TIME)
    pools = [replace(pool, price_per_device_hour=2.0) for pool in pools]
    front = match(scenario, pools).front
    for goal, value in (
        (Goal.TIME, lambda plan: plan.estimate.total_time_s),
        (Goal.COST, lambda plan: plan.estimate.cost),
        (Goal.ENERGY, lambda plan: plan.estimate.energy_j),
    ):
        best = match(replace(scenario, goal=goal), pools).plans[0]
        assert min(map(value, front)) == pytest.approx(value(best), rel=1e-9)
    assert isinstance(scenario.task, Pretrain)
