"""What the user measured himself: it moves the next plan, by the same doors that users take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import import_measurements
from mofang.control.experience import OwnMeasurements
from mofang.control.planning import make_plans
from mofang.domain.codec import encode
from mofang.domain.hardware import Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.plan import Plan
from mofang.domain.scenario import Lengths, Pretrain, Scenario, Serve, StrategyChoice, TextData, Traffic
from mofang.store import Store, jobs, measurements
from mofang.store.jobs import NewJob, Submission
from mofang.store.writer import one_by_one
from mofang.testing import a_node
from mofang.units import parse_request

CATALOG = Catalog.load()
LARGE = Scenario(
    name="large",
    task=Pretrain(
        model=CATALOG.model("llama-3.1-70b"),
        data=TextData(paths=("/t.jsonl",), tokenizer="/m/tokenizer.json"),
        sequence=8192,
        global_batch=256,
        steps=100,
        strategy=StrategyChoice(framework="megatron", tp=4, pp=4, vpp=1, cp=1, precision=Precision.BF16),
    ),
)
SMALL = Scenario(
    name="small",
    task=Pretrain(
        model=ModelArchitecture(
            name="m", layers=2, hidden=64, heads=4, kv_heads=4, ffn=256, vocab=256, head_dim=16, max_sequence=128
        ),
        data=TextData(paths=("/t.txt",)),
        sequence=64,
        global_batch=8,
        steps=50,
        strategy=StrategyChoice(workers=1),
    ),
)
SERVED = Scenario(
    name="served",
    task=Serve(
        model_path=None,
        model=CATALOG.model("llama-3.1-70b"),
        traffic=Traffic(input=Lengths(quantiles=(1024.0, 1024.0)), output=Lengths(quantiles=(256.0, 256.0))),
        strategy=StrategyChoice(framework="vllm", tp=4, pp=1),
    ),
)
TRAINED = "source_id,source,model,accelerator,accel_count,precision,task,framework,tp,pp,dp,micro_batch,global_batch,"
TRAINED += "seq_len,tokens_per_s_per_gpu"
ANSWERED = "source_id,source,model,accelerator,accel_count,framework,version,precision_weights,tp,input_len,output_len,"
ANSWERED += "concurrency_or_batch,scenario,throughput_tok_s_total,output_or_total_tokens,ttft_ms,tpot_ms"


class OneHost:
    """A fleet of one host whose operators nobody timed."""

    nodes = (a_node("here", cluster="local"),)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    with Store(home / "mofang.db") as found:
        yield found


def planned(scenario: Scenario, home: Path, own: OwnMeasurements, hardware: str | None = None) -> Plan:
    requests = None if hardware is None else [parse_request(hardware)]
    fleet: Any = OneHost()
    return make_plans(scenario, requests, 1, fleet, home, own=own).plans[0]


def imported(home: Path, header: str, *rows: str) -> None:
    file = home / "mine.csv"
    file.write_text("\n".join((header, *rows)), encoding="utf-8")
    found = import_measurements(file, home / "catalog", CATALOG)
    assert (found.new, found.problems) == (len(rows), ())


def finished(store: Store, scenario: Scenario, plan: Plan, step_s: float) -> None:
    """Leave what a job of this plan leaves when it has succeeded."""
    row = NewJob("j1", "j1", "me", "j", "waiting", "", 0, encode(scenario), encode((plan,)), 0.0, 0, "", plan.steps)
    store.write(jobs.accept, Submission(row, 1))
    store.write(
        _add,
        {
            "job_id": "j1",
            "measured_at": 1.0,
            "scenario": encode(scenario),
            "strategy": encode(plan.strategy),
            "placement": encode(plan.placement),
            "nodes": json.dumps(["here"]),
            "predicted_step_s": None,
            "measured_step_s": step_s,
            "steps": 50,
        },
    )


@one_by_one
def _add(connection: Any, row: dict[str, Any]) -> None:
    measurements.add(connection, row)


def said(plan: Plan) -> str:
    estimate = plan.estimate if plan.service is None else plan.service.estimate
    assert estimate is not None
    return "\n".join(f"{one.what} | {one.source}" for one in estimate.evidence)


def test_imported_rows_move_the_next_plan_on_that_chip_and_it_says_so(home, store):
    own = OwnMeasurements(store, home)
    before, elsewhere = (planned(LARGE, home, own, chip) for chip in ("H100:64", "MI300X:64"))
    speed = before.estimate.tokens_per_s / 64
    row = "mine_a,our cluster,Llama 3.1 70B,H100-SXM-80GB,64,bf16,pretrain,Megatron-LM,4,4,4,1,256,8192,"
    imported(home, TRAINED, *(f"{row}{speed / slower:.0f}" for slower in (1.5, 1.52, 1.48)))
    after, there = (planned(LARGE, home, own, chip) for chip in ("H100:64", "MI300X:64"))
    ratio = after.estimate.tokens_per_s / before.estimate.tokens_per_s
    assert 1 / 1.5 <= ratio < 1 / 1.2
    assert abs(there.estimate.tokens_per_s / elsewhere.estimate.tokens_per_s - 1) < 0.5 * (1 - ratio)
    low, high = after.estimate.step_time_90.low, after.estimate.step_time_90.high
    assert low < after.estimate.step_time_s < high
    assert high > before.estimate.step_time_90.high
    assert "3 of these are yours" in said(after)
    assert "mine_a: our cluster" in said(after)
    assert "yours" not in said(before)


def test_imported_rows_of_services_move_the_next_service_on_that_chip(home, store):
    own = OwnMeasurements(store, home)
    before, elsewhere = (planned(SERVED, home, own, chip) for chip in ("H100:4", "MI300X:4"))
    row = "mine_s,our service,Llama 3.1 70B,H100-SXM-80GB,4,vLLM,0.19,bf16,4,1024,256,"
    imported(home, ANSWERED, f"{row}16,online,300,output,900,50", f"{row}32,online,500,output,1500,60")
    after, there = (planned(SERVED, home, own, chip) for chip in ("H100:4", "MI300X:4"))
    assert after.service.estimate.tpot_s > 1.2 * before.service.estimate.tpot_s
    assert there.service.estimate.tpot_s == elsewhere.service.estimate.tpot_s
    assert "2 of these are yours" in said(after)
    assert "mine_s: our service" in said(after)
    assert "yours" not in said(before)


@pytest.mark.parametrize("slower", [0.5, 2.0])
def test_a_finished_job_moves_the_next_plan_on_the_same_devices(home, store, slower):
    own = OwnMeasurements(store, home)
    before = planned(SMALL, home, own)
    finished(store, SMALL, before, slower * before.estimate.step_time_s)
    after = planned(replace(SMALL, task=replace(SMALL.task, steps=60)), home, own)
    ratio = after.estimate.step_time_s / before.estimate.step_time_s
    assert min(1.0, slower) < ratio < max(1.0, slower)
    assert abs(ratio - 1) > 0.4 * abs(slower - 1)
    assert after.estimate.step_time_90.low < slower * before.estimate.step_time_s < after.estimate.step_time_90.high
    assert "1 job of yours" in said(after)
    assert "own_j1" in said(after)


def test_a_job_far_off_makes_the_next_prediction_less_sure_of_itself(home, store):
    own = OwnMeasurements(store, home)
    before = planned(SMALL, home, own)
    finished(store, SMALL, before, 20 * before.estimate.step_time_s)
    after = planned(SMALL, home, own)
    assert after.estimate.step_time_90.high > 20 * before.estimate.step_time_s


def test_nothing_is_learned_twice_and_nothing_where_there_is_nothing(home, store):
    own = OwnMeasurements(store, home)
    assert own.experience(OneHost.nodes, CATALOG) is None
    imported(home, TRAINED, "mine_a,us,Llama 3.1 70B,H100-SXM-80GB,64,bf16,pretrain,Megatron-LM,4,4,4,1,256,8192,600")
    first = own.experience(OneHost.nodes, CATALOG)
    assert own.experience(OneHost.nodes, CATALOG) is first
    imported(home, TRAINED, "mine_b,us,Llama 3.1 70B,H100-SXM-80GB,64,bf16,pretrain,Megatron-LM,4,4,4,1,256,8192,610")
    assert own.experience(OneHost.nodes, CATALOG) is not first
