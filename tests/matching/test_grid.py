"""A grid of layouts in every way says of each candidate what a list of them says."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from mofang.catalog.knowledge import Catalog
from mofang.catalog.pools import described_pool
from mofang.domain.scenario import Pretrain, Scenario, TextData
from mofang.matching.codes import combinations
from mofang.matching.enumeration import Product
from mofang.matching.evaluation import Evaluated, Ready, Unit, evaluate, fitting
from mofang.matching.options import Option
from mofang.matching.units import units_of
from mofang.matching.work import work_of
from mofang.units import parse_request

SETTINGS = settings(deadline=None, max_examples=4)


def units(model: str, request: str) -> tuple[Scenario, list[Unit]]:
    catalog = Catalog.load()
    task = Pretrain(
        model=catalog.model(model), data=TextData(paths=("text",)), sequence=4096, global_batch=48, steps=500
    )
    scenario, pool = Scenario(name="grid", task=task), described_pool(parse_request(request), catalog)
    return scenario, units_of(scenario, work_of(task), Option(pool=pool, counts=pool.counts), first=0)[0]


def products(found: list[Unit]) -> list[tuple[Unit, Product]]:
    return [(unit, one) for unit in found for one in unit.space.products if len(one)]


def columns(found: Evaluated) -> dict[str, np.ndarray]:
    total = found.totals
    every = {**found.estimates.time, **found.estimates.memory} | {
        "step": total.step, "seconds": total.seconds, "energy": total.energy_j, "goodput": total.goodput,
        "steps": total.steps, "busy": found.estimates.busy_s, "validation": found.estimates.validation_s,
        "peak": found.estimates.peak_flops, "factor": found.factor,
    }  # fmt: skip
    return {name: column for name, column in every.items() if column is not None}


@pytest.mark.parametrize(
    ("model", "request_"), [("llama-3-8b", "H100:16"), ("qwen3-30b-a3b", "H100:16"), ("llama-3.2-1b", "cpu:8")]
)
@SETTINGS
@given(seed=st.integers(0, 10**6))
def test_a_grid_says_what_a_list_says(model: str, request_: str, seed: int):
    scenario, found = units(model, request_)
    chance = np.random.default_rng(seed)
    for unit, one in products(found):
        rows, ways = np.sort(chance.integers(0, len(one.layouts), 30)), np.arange(len(one.ways))
        some = slice(7, 19)
        ready = Ready.of(unit, one.take(*one.grid(rows)), timed=True).where(some)
        listed = one.take(*one.crossed(rows[some], ways))
        shape = len(rows[some]), len(ways)
        got = columns(ready.evaluate())
        for name, wanted in columns(evaluate(unit, listed)).items():
            assert_allclose(got[name].T, wanted.reshape(shape), rtol=1e-12, atol=1e-15, err_msg=name)
        fit, each = ready.fitting(scenario), fitting(scenario, unit, listed)
        assert_allclose(fit.fits.T, each.fits.reshape(shape))
        assert_allclose(fit.device_bytes.T, each.device_bytes.reshape(shape), rtol=1e-12)
        assert_allclose(fit.host_bytes.T, each.host_bytes.reshape(shape), rtol=1e-12)
        assert (one.numbers(*one.grid(rows[some])).T.ravel() == one.numbers(*one.crossed(rows[some], ways))).all()


def test_the_bytes_of_a_device_are_the_sum_of_its_parts():
    _, found = units("qwen3-30b-a3b", "H100:16")
    for unit, one in products(found):
        ready = Ready.of(unit, one.take(*one.grid(np.arange(min(200, len(one.layouts))))))
        assert ready.memory.bytes() == pytest.approx(sum(ready.memory.parts().values()), rel=1e-12)


def test_the_grid_of_a_space_holds_its_candidates():
    _, found = units("llama-3-8b", "H100:8")
    for unit in found:
        grid = unit.space.grid()
        assert len(grid) >= len(unit.space)
        assert grid.shape == tuple(
            sum(len(part) for part in parts)
            for parts in ([one.ways for one in unit.space.products], [one.layouts for one in unit.space.products])
        )


@SETTINGS
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2000)), max_size=20),
    ways=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=9),
)
def test_combinations_of_a_grid_are_those_of_its_list(rows: list[tuple[int, int]], ways: list[tuple[int, int]]):
    def table(values: list[tuple[int, int]], reshape: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
        return [reshape(column) for column in np.array(values, dtype=np.int64).reshape(-1, 2).T]

    a, b = table(rows, lambda column: column[None, :])
    c, d = table(ways, lambda column: column[:, None])
    given_ = {"a": a, "c": c, "b": b, "d": d}
    found = combinations(given_)
    assert found.place.shape == (len(ways), len(rows))
    for name, column in given_.items():
        assert (found.columns[name][found.place] == np.broadcast_to(column, found.place.shape)).all()
    distinct = set(zip(*(values.tolist() for values in found.columns.values()), strict=True))
    assert len(distinct) == len(found)
    kept = found.where(np.arange(0, len(rows), 2))
    assert (kept.place == found.place[:, ::2]).all()
