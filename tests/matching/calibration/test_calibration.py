"""The packaged calibration: what it says of chips that were measured, and of those that were not."""

from dataclasses import fields, replace

import numpy as np
import pytest

from mofang.catalog.frameworks import frameworks
from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import load_training
from mofang.catalog.pools import described_pool
from mofang.matching.calibration import calibration
from mofang.matching.calibration.evidence import distances
from mofang.matching.calibration.features import candidate_features
from mofang.matching.calibration.stored import packaged_fit, write_fit
from mofang.matching.candidates import METHODS, PRECISIONS, Candidates
from mofang.matching.work import Work
from mofang.units import parse_request

MEGATRON = frameworks()["megatron"]


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load()


@pytest.fixture(scope="module")
def work(catalog):
    return Work(model=catalog.model("llama-3.1-70b"), sequence=8192, global_batch=128, steps=1)


def pool(catalog, text):
    return described_pool(parse_request(text), catalog)


def candidates(size=1, seed=None):
    chance = np.random.default_rng(seed)
    columns = {field.name: np.ones(size, dtype=np.int64) for field in fields(Candidates)}
    columns |= {"recompute": columns["tp"] * 0, "method": columns["tp"] * METHODS.index("full")}
    columns |= {"offload": columns["tp"] * 0, "precision": columns["tp"] * PRECISIONS.index("bf16")}
    if seed is None:
        columns |= {"tp": columns["tp"] * 4, "pp": columns["tp"] * 4, "cp": columns["tp"] * 2, "dp": columns["tp"] * 2}
    else:
        columns |= {name: 2 ** chance.integers(0, 4, size) for name in ("tp", "pp", "cp", "dp")}
        columns |= {"recompute": chance.integers(0, 3, size), "sharding": chance.integers(0, 5, size)}
        columns |= {"precision": chance.choice([PRECISIONS.index("bf16"), PRECISIONS.index("fp8")], size)}
    columns["devices"] = columns["tp"] * columns["pp"] * columns["cp"] * columns["dp"]
    return Candidates(**columns)


def test_tables_of_columns_give_what_the_posterior_gives(catalog, work):
    many, chip = candidates(200, seed=1), pool(catalog, "H100:4096")
    exact = packaged_fit().posterior.mean(candidate_features(work, chip, many, MEGATRON))
    np.testing.assert_allclose(calibration().log_factor(work, chip, MEGATRON, many), exact, atol=2e-3)


def test_no_candidate_is_below_the_least(catalog, work):
    for chip in ("H100:4096", "GB300:4096", "MI300X:4096"):
        where = pool(catalog, chip)
        least = calibration().least_log_factor(work, where, MEGATRON)
        assert least <= calibration().log_factor(work, where, MEGATRON, candidates(500, seed=2)).min() + 1e-9


def test_a_chip_nobody_measured_is_far_less_sure_and_says_so(catalog, work):
    known, unknown = pool(catalog, "H100:64"), pool(catalog, "MLU590:64")
    _, sure = calibration().factor(work, known, MEGATRON, candidates())
    _, unsure = calibration().factor(work, unknown, None, candidates())
    assert unsure[0] > 1.8 * sure[0]
    said = calibration().evidence(work, unknown, None, candidates())[0].what
    assert "no measurement of Cambricon MLU590 is known" in said
    assert "interval is wide" in said
    assert "on NVIDIA H100-SXM-80GB" in calibration().evidence(work, known, MEGATRON, candidates())[0].what


def test_a_relative_of_measured_chips_is_between(catalog, work):
    deviations = [
        calibration().factor(work, pool(catalog, f"{chip}:64"), MEGATRON, candidates())[1][0]
        for chip in ("H100", "H20", "MLU590")
    ]
    assert deviations == sorted(deviations)


def test_the_nearest_measurements_come_first_with_source_and_value(catalog, work):
    _, *near = calibration().evidence(work, pool(catalog, "H100:64"), MEGATRON, candidates())
    assert [one.distance for one in near] == sorted(one.distance for one in near)
    assert "70B" in near[0].what
    assert "H100" in near[0].what
    assert all(one.value and one.source for one in near)
    assert len({one.source for one in near}) == len(near)


def test_an_observation_is_at_no_distance_from_itself():
    fit = packaged_fit()
    one = fit.observations.features.where(np.array([0]))
    if (one.labels["recompute"] == "")[0] or (one.labels["sharding"] == "")[0]:
        one = replace(one, labels={**one.labels})
    found = distances(fit.prior, fit.observations.features, one)
    assert found.argmin() == 0 or found[0] == found.min()
    assert found.max() > found.min()


def test_the_users_own_rows_weigh_most_on_his_hardware(catalog, work):
    rows = load_training(None, catalog).rows
    row = next(one for one in rows if one.source_id == "dgxc_llama31_70b" and one.num_devices == 64)
    slow = replace(row, source_id="mine", tokens_per_s_per_device=row.tokens_per_s_per_device / 1.5, step_time_s=None)
    h100, a100 = pool(catalog, "H100:64"), pool(catalog, "A100:64")
    before = [calibration().factor(work, where, MEGATRON, candidates()) for where in (h100, a100)]
    mine = calibration([slow, slow, slow], catalog)
    after = [mine.factor(work, where, MEGATRON, candidates()) for where in (h100, a100)]
    here, there = (float(after[place][0][0] - before[place][0][0]) for place in (0, 1))
    assert here > 0.5 * np.log(1.5)
    assert abs(there) < 0.5 * here


def test_rows_that_state_no_speed_change_nothing(catalog):
    row = load_training(None, catalog).rows[0]
    silent = replace(row, tokens_per_s_per_device=None, step_time_s=None, flops_per_device=None, mfu=None, hfu=None)
    assert calibration([silent], catalog) is calibration()


def test_a_fit_survives_being_written(tmp_path, monkeypatch):
    fit = packaged_fit()
    write_fit(fit, tmp_path)
    monkeypatch.setattr("mofang.matching.calibration.stored._FOLDER", tmp_path)
    again = packaged_fit.__wrapped__()
    assert again.prior.noise == pytest.approx(fit.prior.noise)
    assert set(again.prior.variances) == set(fit.prior.variances)
    np.testing.assert_allclose(again.posterior.solved, fit.posterior.solved, rtol=1e-6)
    assert again.observations.facts == fit.observations.facts
