"""Validation: the shape of the report, honest left-out fits, and the accuracy that is promised."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import load_training
from mofang.errors import CatalogError
from mofang.matching.validation import LeaveOut, validate_training

FIGURES = {"n", "median_ape", "p90_ape", "bias", "coverage_90"}


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load()


@pytest.fixture(scope="module")
def packaged(catalog):
    return load_training(None, catalog).rows


@pytest.fixture(scope="module")
def some(packaged):
    wanted = {"flagperf_aquila2_7b", "nemo_24.07_finetune", "llama3_modelcard_gpu_hours"}
    return [row for row in packaged if row.source_id in wanted]


def predictions(report, source):
    return {row.setting.row.line: row.predicted for row in report.rows if row.setting.row.source_id == source}


def test_the_report_as_data(some, catalog):
    data = validate_training(some, catalog, LeaveOut.SOURCE).to_data()
    assert set(data["overall"]) == FIGURES
    assert data["overall"]["n"] == 10
    assert [one["source_id"] for one in data["sources"]] == ["flagperf_aquila2_7b", "nemo_24.07_finetune"]
    assert all(set(one) == {"source_id", *FIGURES} for one in data["sources"])
    assert {"groups", "rows", "mean_regret", "concordance"} <= set(data["layout"])
    assert set(data["memory"]) == {"n", "median_ape"}
    assert data["memory"]["n"] == 4
    assert data["unscored"] == {"number of devices not stated": 3}
    assert data["quantities"] == {"tokens/s": 10}


def test_layouts_of_one_job_are_a_group(some, catalog):
    (group,) = [one for one in validate_training(some, catalog).groups if "Aquila2" in one.what]
    assert len(group.layouts) == 4
    assert max(group.measured) == 3936.8


@pytest.mark.parametrize("leave_out", list(LeaveOut))
def test_a_poisoned_source_does_not_change_its_own_predictions(some, catalog, leave_out):
    poisoned = [
        replace(row, tokens_per_s_per_device=row.tokens_per_s_per_device * 20)
        if row.source_id == "flagperf_aquila2_7b"
        else row
        for row in some
    ]
    clean = predictions(validate_training(some, catalog, leave_out), "flagperf_aquila2_7b")
    found = predictions(validate_training(poisoned, catalog, leave_out), "flagperf_aquila2_7b")
    assert found == pytest.approx(clean)


def test_other_sources_of_the_file_are_learned_from(some, catalog):
    poisoned = [
        replace(row, tokens_per_s_per_device=row.tokens_per_s_per_device / 2)
        if row.source_id == "flagperf_aquila2_7b"
        else row
        for row in some
    ]
    clean = predictions(validate_training(some, catalog, LeaveOut.SOURCE), "nemo_24.07_finetune")
    found = predictions(validate_training(poisoned, catalog, LeaveOut.SOURCE), "nemo_24.07_finetune")
    assert found != pytest.approx(clean, rel=1e-6)


def test_a_file_of_nothing_that_can_be_scored_says_why(some, catalog):
    rows = [row for row in some if row.num_devices is None]
    with pytest.raises(CatalogError, match="3 x number of devices not stated"):
        validate_training(rows, catalog)
    with pytest.raises(CatalogError, match="there are none"):
        validate_training([], catalog)


@pytest.fixture(scope="module")
def reference(catalog):
    folder = os.environ.get("MOFANG_REFERENCE_DATA")
    if not folder:
        pytest.skip("MOFANG_REFERENCE_DATA is not set: the reference measurements are not at hand")
    return load_training(Path(folder) / "training_measurements.csv", catalog).rows


@pytest.mark.serial
def test_accuracy_with_each_source_left_out(reference, catalog):
    report = validate_training(reference, catalog, LeaveOut.SOURCE)
    nvidia = report.vendors["NVIDIA"]
    assert nvidia.n > 600
    assert nvidia.median_ape <= 0.10
    assert nvidia.p90_ape <= 0.35
    assert 0.85 <= report.overall.coverage_90 <= 0.95
    for one in report.vendors.values():
        assert one.n <= 20 or 0.82 <= one.coverage_90 <= 0.98  # of 24 rows one is 4 %
    assert report.layout.mean_regret <= 0.05
    assert report.layout.concordance >= 0.8
    assert report.layout.groups >= 20
    assert report.memory.median_ape <= 0.10
    assert sum(report.unscored.values()) + report.overall.n == len(reference)


@pytest.mark.serial
def test_accuracy_with_each_publisher_left_out(reference, catalog):
    report = validate_training(reference, catalog, LeaveOut.PUBLISHER)
    assert report.vendors["NVIDIA"].median_ape <= 0.18
    (lora,) = [one for one in report.times if "LoRA" in one.benchmark]
    assert lora.vendors == ("AMD", "NVIDIA")
    assert lora.correlation >= 0.9
