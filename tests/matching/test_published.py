"""Sanity against published training runs that no coefficient was fitted to; loose bounds: data sheets only."""

import csv
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.catalog.pools import described_pool
from mofang.domain.hardware import Pool
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Scenario, StrategyChoice
from mofang.matching import match
from mofang.matching.candidates import enumerate_candidates, layouts
from mofang.matching.estimate import estimate
from mofang.units import Range, parse_request

NEEDED = ("layers", "hidden", "heads", "ffn_hidden", "vocab", "seq_len", "accel_count", "tokens_per_s_per_gpu")
SOURCES = ("fms_fsdp_readme", "llmfoundry_h100_bf16", "llmfoundry_a100_80gb")


def _rows() -> list[dict[str, str]]:
    folder = os.environ.get("MOFANG_REFERENCE_DATA")
    if not folder:
        pytest.skip("MOFANG_REFERENCE_DATA is not set: the published measurements are not at hand")
    with Path(folder, "training_measurements.csv").open(encoding="utf-8", newline="") as file:
        return [
            row
            for row in csv.DictReader(file)
            if row["source_id"] in SOURCES and all(row[name] for name in NEEDED) and row["precision"].upper() == "BF16"
        ]


def _model(row: dict[str, str]) -> ModelArchitecture:
    hidden, heads = int(row["hidden"]), int(row["heads"])
    return ModelArchitecture(
        name=row["model"],
        layers=int(row["layers"]),
        hidden=hidden,
        heads=heads,
        kv_heads=int(row["kv_heads"] or heads),
        ffn=int(row["ffn_hidden"]),
        vocab=int(row["vocab"]),
        head_dim=hidden // heads,
        max_sequence=int(row["seq_len"]),
        gated_ffn="lama" in row["model"],
    )


def _throughput(row: dict[str, str], pretrain: Callable[..., Scenario]) -> float | None:
    devices = int(row["accel_count"])
    pool = described_pool(parse_request(f"{row['accelerator']}:{devices}"), Catalog.load())
    micro_batch = int(row["micro_batch"]) if row["micro_batch"] else 1
    batch = int(row["global_batch"]) if row["global_batch"] else micro_batch * devices
    scenario = pretrain(
        _model(row),
        global_batch=max(batch, devices * micro_batch) // (devices * micro_batch) * devices * micro_batch,
        sequence=int(row["seq_len"]),
        strategy=StrategyChoice(workers=devices, micro_batch=micro_batch),
    )
    plans = match(scenario, [pool]).plans
    return plans[0].estimate.tokens_per_s / devices if plans else None


def test_published_throughput_lies_near_the_prediction(pretrain: Callable[..., Scenario]):
    ratios = []
    for row in _rows()[::4]:
        predicted = _throughput(row, pretrain)
        if predicted is not None:
            ratios.append(predicted / float(row["tokens_per_s_per_gpu"]))
    assert len(ratios) >= 8
    assert 0.7 < statistics.median(ratios) < 1.6
    assert statistics.mean(0.5 < ratio < 2.0 for ratio in ratios) >= 0.8


def test_many_candidates_a_second(pretrain: Callable[..., Scenario], llama_7b: ModelArchitecture, h100: Pool):
    scenario = pretrain(llama_7b, global_batch=5040)
    wide = replace(h100, counts=Range(1, 8192))
    task = scenario.task
    found = layouts(wide, wide.counts, scenario)
    candidates = enumerate_candidates(task, wide, found.where(task.global_batch % found.workers == 0))
    started = time.perf_counter()
    estimate(task, wide, candidates)
    rate = len(candidates) / (time.perf_counter() - started)
    assert rate > 20_000, f"{len(candidates)} candidates estimated, {rate:,.0f} a second"
