"""The model's own predictions against published services, and the calibrated ones on rows left out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mofang.catalog.measurements import load_serving
from mofang.matching.serving.samples import Measured, measured
from mofang.matching.serving.validation import left_out


@pytest.fixture(scope="module")
def packaged(catalog):
    return load_serving(None, catalog).rows


def errors(found: Measured, target: str) -> np.ndarray:
    rows = found.usable(target)
    return np.abs(found.predicted[target][rows] / found.measured[target][rows] - 1.0)


@pytest.mark.parametrize(
    ("source", "target", "median", "count"),
    [
        ("trtllm-v1.2-llama3.3-70b", "throughput", 0.12, 20),  # saturated, cut and formats stated
        ("trtllm-v1.0-llama3.3-70b", "throughput", 0.15, 60),
        ("nim-1.0.0-perf", "throughput", 0.10, 8),  # 1 to 250 requests, also far beyond the cache
        ("nim-1.0.0-perf", "ttft", 0.25, 8),
        ("mlperf-v5.1-llama2-70b", "throughput", 0.25, 100),
        ("intel-gaudi3-1.18", "throughput", 0.20, 20),  # a chip without one operator timing
        ("aic-silicon-llama3.1-70b", "tpot", 0.18, 400),
        ("aic-silicon-minimax-m2.5", "tpot", 0.18, 300),
    ],
)
def test_uncalibrated_predictions_lie_near_published_figures(
    packaged, catalog, source: str, target: str, median: float, count: int
) -> None:
    found = measured([row for row in packaged if row.source_id == source], catalog)
    off = errors(found, target)
    assert len(off) >= count
    assert np.median(off) <= median


def test_rows_that_cannot_be_scored_are_counted(packaged, catalog) -> None:
    rows = [row for row in packaged if row.source_id.startswith(("vllm-ascend-ci", "azure"))]
    report = left_out(measured(rows, catalog), len(rows), "source")
    assert report.rows == len(rows)
    scored = report.throughput.n
    assert scored + sum(report.not_scored.values()) == len(rows)
    data = report.to_data()
    assert {"throughput", "tpot", "ttft", "sources"} <= data.keys()
    assert {source["source_id"] for source in data["sources"]} == {row.source_id for row in rows}
    assert set(data["throughput"]) == {"n", "median_ape", "p90_ape", "bias", "coverage_90"}


@pytest.mark.serial
def test_thresholds_on_rows_left_out(catalog) -> None:
    folder = os.environ.get("MOFANG_REFERENCE_DATA")
    if folder is None:
        pytest.skip("MOFANG_REFERENCE_DATA is not set: the reference measurements are needed")
    rows = load_serving(Path(folder) / "inference_measurements.csv", catalog).rows
    found = measured(rows, catalog)
    publisher, source = (left_out(found, len(rows), group) for group in ("publisher", "source"))
    assert publisher.throughput.n > 1_600
    assert publisher.throughput.median_ape <= 0.20
    assert source.tpot.n > 2_500
    assert source.tpot.median_ape <= 0.15
    assert 0.80 <= source.tpot.coverage_90 <= 0.97
    assert 0.80 <= publisher.throughput.coverage_90 <= 0.97
