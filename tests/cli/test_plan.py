"""How plans are told: tables that fit, reasons, pictures, scripts; and one clear line for what is wrong."""

from __future__ import annotations

import itertools
import json
import shlex
from dataclasses import replace

import pytest
import yaml

from mofang.catalog.knowledge import Catalog
from mofang.cli import jobfile, session
from mofang.cli.basis import print_basis
from mofang.cli.labels import Label, place_labels
from mofang.cli.main import main
from mofang.cli.pareto import time_ticks, write_picture
from mofang.cli.plans import print_plans, print_rejections, require_plans
from mofang.cli.settings import home
from mofang.cli.starting import start_script
from mofang.client import Client
from mofang.control.pools import described_pools
from mofang.domain.estimate import Estimate, Evidence, Interval, ServiceEstimate
from mofang.domain.hardware import Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.plan import MatchResult, Part, Placement, Plan, Role, Sensitivity, Service
from mofang.domain.reasons import Reason, Rejection
from mofang.domain.scenario import (
    Lengths,
    Limits,
    Pretrain,
    Scenario,
    Serve,
    ServiceLevel,
    TextData,
    Traffic,
)
from mofang.domain.strategy import Offload, Parallelism, Recompute, Sharding, Strategy
from mofang.errors import InfeasibleError, SpecError
from mofang.matching import match, sensitivities
from mofang.report.layouts import chip_text
from mofang.report.theme import LIGHT

H100 = "NVIDIA H100-SXM-80GB"
MODEL = ModelArchitecture(
    name="llama-3.1-70b",
    layers=80,
    hidden=8192,
    heads=64,
    kv_heads=8,
    head_dim=128,
    ffn=28672,
    vocab=128256,
    max_sequence=131072,
)
EVIDENCE = (
    Evidence(what="compute: timed on this chip", source="a table"),
    Evidence(what="llama-70b on 64 H100", source="somebody: a report", value=1234.0, distance=0.31),
)


def training(*, goal_limits: Limits = Limits(), paths: tuple[str, ...] = ("corpus.jsonl",)) -> Scenario:
    data = TextData(paths=paths, tokenizer="/tokenizers/llama/tokenizer.json", validation_fraction=0.02)
    return Scenario(
        name="big",
        task=Pretrain(model=MODEL, data=data, sequence=8192, global_batch=512, steps=100),
        limits=goal_limits,
    )


def serving(model_path: str | None = "/models/llama", rate: float | None = 4.0) -> Scenario:
    lengths = Lengths(quantiles=(100.0, 1000.0, 4000.0))
    traffic = Traffic(input=lengths, output=lengths, rate=rate)
    level = ServiceLevel(ttft_s=0.5, tpot_s=0.04)
    return Scenario(name="chat", task=Serve(model=MODEL, model_path=model_path, traffic=traffic, level=level))


def estimate(step: float = 10.0, **fields: object) -> Estimate:
    values: dict = {
        "step_time_s": step,
        "step_time_90": Interval(low=0.8 * step, high=1.25 * step),
        "tokens_per_s": 512 * 8192 / step,
        "mfu": 0.42,
        "memory_bytes": 71e9,
        "peak_flops": 6e16,
        "total_time_s": 101.0 * step,
        "time": {"compute": 0.7 * step, "pipeline": 0.3 * step, "expert-parallel": 0.0},
        "memory": {"weights": 40e9, "activations": 31e9},
        "energy_j": 3.6e9,
        "cost": 1234.0,
        "evidence": EVIDENCE,
        "goodput": 0.99,
    }
    return Estimate(**values | fields)


def plan(step: float = 10.0, *, devices: int = 64, cut: Parallelism | None = None, **fields: object) -> Plan:
    layout = cut or Parallelism(dp=devices // 16, tp=4, pp=4, vpp=2)
    strategy = Strategy(
        framework="megatron",
        parallelism=layout,
        sharding=Sharding.ZERO1,
        precision=Precision.BF16,
        recompute=Recompute.SELECTIVE,
        micro_batch=1,
        accumulation=512 // layout.dp,
        offload=Offload.NONE,
    )
    placement = Placement(cluster="", accelerator=H100, num_devices=devices, num_nodes=max(1, devices // 8))
    return Plan(strategy=strategy, placement=placement, steps=100, estimate=estimate(step, **fields))


def mixture() -> Plan:
    whole = plan()
    other = replace(whole.placement, accelerator="Huawei Ascend 910B2 64GB")
    cut = whole.strategy.parallelism
    parts = (
        Part(role=Role.REPLICAS, placement=whole.placement, parallelism=cut, share=0.625),
        Part(role=Role.REPLICAS, placement=other, parallelism=cut, share=0.375, framework="mindspeed"),
    )
    return replace(whole, parts=parts)


def service(tpot: float = 0.02, **fields: object) -> Plan:
    found = ServiceEstimate(
        ttft_s=0.2,
        ttft_tail_s=0.4,
        tpot_s=tpot,
        tpot_tail_s=1.2 * tpot,
        tokens_per_s=1360.0,
        requests_per_s=4.0,
        max_requests_per_s=10.0,
        concurrency=30.0,
        kv_tokens=2e5,
        memory_bytes=60e9,
        tokens_per_s_90=Interval(low=1000.0, high=1800.0),
        tpot_90=Interval(low=0.8 * tpot, high=1.3 * tpot),
        ttft_90=Interval(low=0.1, high=0.4),
        time={"linear": 0.9 * tpot, "attention": 0.1 * tpot},
        prefill={"linear": 0.18, "attention": 0.02},
        memory={"weights": 40e9, "cache": 20e9},
        kept=0.83,
        cost_per_million_tokens=1.73,
        energy_j_per_token=1.03,
        evidence=EVIDENCE,
    )
    values: dict = {
        "strategy": Strategy(framework="vllm", parallelism=Parallelism(tp=4)),
        "placement": Placement(cluster="", accelerator=H100, num_devices=8, num_nodes=1),
        "steps": None,
        "service": Service(
            replicas=2, concurrency=64, precision=Precision.FP8, kv_precision=Precision.BF16, estimate=found
        ),
    }
    return Plan(**values | fields)


def shown(capsys, monkeypatch, width, plans, scenario, **options) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    print_plans(plans, scenario, **options)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize(
    ("plans", "scenario"),
    [
        ([plan(10), plan(11, devices=128)], training()),
        ([mixture(), plan(12)], training()),
        ([service(), service(0.03)], serving()),
    ],
)
def test_tables_fit_the_terminal(capsys, monkeypatch, width, plans, scenario):
    lines = shown(capsys, monkeypatch, width, plans, scenario, currency="USD")
    assert max(map(len, lines)) <= width


def test_what_is_the_same_in_all_plans_is_told_once(capsys, monkeypatch):
    first, heading, *rows = shown(
        capsys, monkeypatch, 120, [plan(10), plan(11)], training(), currency="USD", everything=True
    )
    assert first == "in all plans: H100-SXM-80GB:64 on 8 nodes, megatron, bf16"
    assert heading.split()[:3] == ["#", "layout", "batch"]  # the layouts are alike, so the batch tells them apart
    assert "dp4 tp4 pp4 vpp2 zero1, selective" in rows[0]
    assert "336..524k" in rows[0]


def test_unknown_costs_are_unknown_and_never_zero(capsys, monkeypatch):
    lines = shown(capsys, monkeypatch, 200, [plan(10), plan(11, cost=None)], training(), everything=True)
    assert "cost" in lines[1]
    assert "unknown" in lines[3]
    lines = shown(capsys, monkeypatch, 200, [plan(10, cost=None), plan(11, cost=None)], training(), everything=True)
    assert "cost" not in lines[1]
    assert "unknown" not in "".join(lines)


def test_a_mixture_names_both_kinds_of_chips_and_their_shares(capsys, monkeypatch):
    text = "\n".join(shown(capsys, monkeypatch, 250, [mixture(), plan(12)], training()))
    assert "H100-SXM-80GB:64 on 8 nodes + Ascend 910B2 64GB:64 on 8 nodes" in text
    assert "62% + 38% of the batch, dp4 tp4 pp4 vpp2 zero1" in text
    assert "megatron + mindspeed" in text
    assert "plan 1: one job on two kinds of chips, which nothing can start yet" in text


def test_near_twins_are_left_out_and_keep_their_numbers(capsys, monkeypatch):
    plans = [plan(10), plan(10.2, cut=Parallelism(dp=2, tp=8, pp=4)), plan(11, cut=Parallelism(dp=64))]
    text = shown(capsys, monkeypatch, 120, plans, training(), currency="USD")
    assert [row.split()[0] for row in text if row[:1].isdigit()] == ["1", "3", "1"]  # the last is the note
    assert "1 near-twin of these" in "\n".join(text)
    every = shown(capsys, monkeypatch, 120, plans, training(), currency="USD", everything=True)
    assert [row.split()[0] for row in every if row[:1].isdigit()] == ["1", "2", "3"]


def test_what_is_unsure_of_a_plan_is_said_beside_it(capsys, monkeypatch):
    plans = [plan(10), plan(9, cut=Parallelism(dp=64), tight=True, unmeasured=("offload optimizer",))]
    text = shown(capsys, monkeypatch, 200, plans, training(), currency="USD")
    assert "71 GB tight" in text[3]
    assert any(row.startswith("tight: ") for row in text)
    assert any("plan 2: no measurement with offload optimizer in megatron" in row for row in text)


def test_rows_that_say_nothing_of_the_devices_are_only_counted(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    detail = Rejection(code=Reason.MEMORY, what="64 x A", need=9e9, have=8e9, candidates=99, feasible=5, hint="less")
    verdict = Rejection(code=Reason.MEMORY, what="64 x B", need=9e9, have=8e9, candidates=7, hint="more of them")
    result = MatchResult(plans=(plan(10),), rejections=(detail, verdict))
    print_rejections(result, everything=False)
    text = capsys.readouterr().out
    assert "64 x B" in text
    assert "64 x A" not in text
    assert "99 more candidates on these devices are ruled out" in text
    print_rejections(result, everything=True)
    assert "64 x A" in capsys.readouterr().out


def test_names_in_a_picture_lie_apart_and_inside(tmp_path):
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy
    from matplotlib.text import Annotation, Text  # noqa: PLC0415

    figure = Figure(figsize=(8.0, 5.0), dpi=100)
    axes = figure.add_subplot()
    axes.step([0, 1, 2, 3], [3, 2, 1, 0.9], where="post")
    axes.plot([0, 1, 2, 3], [3, 2, 1, 0.9], "o")
    labels = [Label(x, y, f"name of point {x}", str(x)) for x, y in zip((0, 1, 2, 3), (3, 2, 1, 0.9), strict=True)]
    crowd = [Label(3, 0.9, f"another name {k}", "") for k in range(30)]
    assert place_labels(figure, axes, [*labels, *crowd], LIGHT) >= 4
    texts = [one for one in axes.get_children() if isinstance(one, Annotation)]
    boxes = [Text.get_window_extent(one) for one in texts]
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


@pytest.mark.parametrize(
    ("low", "high", "first", "last"),
    [(4 * 3600, 20 * 86400, "6 h", "14 days"), (90, 1e6, "2 min", "4 days"), (3600 * 20, 3600 * 30, "20 h", "30 h")],
)
def test_time_is_told_in_round_hours_and_days(low, high, first, last):
    ticks = time_ticks(low, high)
    assert 2 <= len(ticks) <= 11
    assert (ticks[0][1], ticks[-1][1]) == (first, last)
    assert all(low <= seconds <= high for seconds, _ in ticks)


def test_a_service_shows_latencies_with_their_tail_and_how_much_more_it_takes(capsys, monkeypatch):
    lines = shown(capsys, monkeypatch, 200, [service(), service(0.03)], serving(), currency="USD", everything=True)
    for word in ("TTFT..p95", "TPOT..p95", "kept", "max req/s", "USD/M"):
        assert word in lines[1]
    for word in ("2 x (tp4)", "200..400ms", "20..24ms", "83%", "7.35..13.2", "1.73"):
        assert word in lines[2]
    assert "fp8, kv bf16" in lines[0]
    assert "tokens/s" in shown(capsys, monkeypatch, 200, [service()], serving(rate=None))[0]


def test_names_without_vendor_are_names_of_the_catalogue():
    catalog = Catalog.load(None)
    for chip in catalog.accelerators:
        assert catalog.accelerator(chip_text(chip.name)).name == chip.name


def test_the_explanation_says_where_time_goes_what_is_near_and_what_would_change_it(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    changes = (Sensitivity(what="400 Gb/s", gain=0.09), Sensitivity(what="bf16", gain=-1.0))
    print_basis(MatchResult(plans=(plan(10), plan(11)), sensitivities=changes), currency="USD")
    text = capsys.readouterr().out
    for words in ("16m 50s for 100 steps", "99.0% of the time", "1.23k USD", "1 MWh", "1 x 128 x 4 = 512"):
        assert words in text
    for words in ("distance 0.31", "somebody: a report", "compute: timed on this chip", "+9 %", "nothing fits"):
        assert words in text
    assert "expert-parallel" not in text  # it takes no time
    assert "+10.0 %" in text  # plan 2 takes a tenth longer
    assert max(map(len, text.splitlines())) <= 100


def test_a_picture_is_drawn_for_money_for_energy_and_for_services(tmp_path):
    plans = tuple(plan(10 / size, devices=64 * size, cost=1000.0 + 90 * size) for size in (1, 2, 4))
    for name, result in (
        ("cost.png", MatchResult(plans=plans, front=plans)),
        ("energy.svg", MatchResult(plans=(plan(10, cost=None), plan(20, cost=None)))),
        ("service.png", MatchResult(plans=(service(), service(0.03)))),
    ):
        write_picture(tmp_path / name, "job", result, currency="USD")
        assert (tmp_path / name).stat().st_size > 5000


def script_words(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.splitlines() if line and not line.startswith(("#", "export"))]


def test_the_script_of_a_plan_for_megatron_says_version_preparation_and_nodes(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"text": "a"}\n')
    text = start_script(training(paths=(str(corpus),)), plan())
    prepare, start = script_words(text)
    assert prepare[0] == "python"
    assert prepare[1].endswith("preprocess_data.py")
    assert start[:3] == ["torchrun", "--nnodes=8", "--nproc-per-node=8"]
    assert start[start.index("--tensor-model-parallel-size") + 1] == "4"
    assert "megatron core_v0.15.0" in text
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=1" in text


def test_the_script_of_a_service_starts_it_without_torchrun():
    (start,) = script_words(start_script(serving(), service()))
    assert start[:3] == ["vllm", "serve", "/models/llama"]


def test_no_script_for_what_no_launcher_starts():
    with pytest.raises(SpecError, match="two kinds of chips"):
        start_script(training(), mixture())
    with pytest.raises(SpecError, match="no folder"):
        start_script(serving(model_path=None), service())


def test_where_only_a_limit_rules_plans_out_the_limit_is_named():
    rows = (
        Rejection(code=Reason.MEMORY, what="a", need=9e9, have=8e9, candidates=9, hint="more memory"),
        Rejection(code=Reason.BUDGET, what="b", need=443e3, have=100.0, candidates=3, hint="a larger budget"),
    )
    with pytest.raises(InfeasibleError) as caught:
        require_plans(MatchResult(plans=(), rejections=rows, candidates=12))
    assert "443k needed, 100 allowed" in caught.value.message
    assert caught.value.hint == "a larger budget"


class Direct:
    """Answers like the controller, in this process."""

    def __enter__(self) -> Direct:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to hang up."""

    def plan(self, scenario, hardware=None, num_plans=8, *, pools=None, explain=False):
        given = described_pools(hardware, Catalog.load(home() / "catalog")) if pools is None else pools
        result = match(scenario, given, num_plans=num_plans)
        return replace(result, sensitivities=sensitivities(scenario, given, result.plans[0]) if explain else ())


JOB = """
kind: pretrain
version: 1
name: small
model: llama-2-7b
data: {text: [python-stdlib]}
train: {sequence: 4096, global_batch: 64, steps: 100}
"""
FLEET = """
kind: fleet
version: 1
clusters:
- name: lab
  nodes:
  - {accelerator: %s, devices: 8, network: %s}
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("MOFANG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setattr(session, "connect", Direct)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def test_plan_for_a_fleet_file_with_a_price_of_the_users(files, capsys):
    (files / "fleet.yaml").write_text(FLEET % ("H100", "400Gb/s"))
    words = ["plan", "job.yaml", "--fleet", "fleet.yaml", "--goal", "cost", "--price", "H100=36", "-n", "3"]
    assert main([*words, "--explain", "--plot", "plans.svg"]) == 0
    out = capsys.readouterr().out
    assert "the cheapest come first" in out
    assert "cost, USD" in out
    assert "twice the link in a node" in out
    assert (files / "plans.svg").exists()
    assert main([*words, "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["plans"]
    assert len(found) == 3
    best = found[0]
    expected = 36.0 / 3600 * best["estimate"]["total_time_s"] * best["placement"]["num_devices"]
    assert best["estimate"]["cost"] == pytest.approx(expected)


def test_a_picked_plan_is_saved_and_runs_as_it_stands(files, capsys):
    assert main(["plan", "job.yaml", "--hardware", "H100:8", "--pick", "2", "-o", "yaml"]) == 0
    text = capsys.readouterr().out
    (files / "best.yaml").write_text(text)
    assert yaml.safe_load(text)["kind"] == "plan"
    assert jobfile.load("best.yaml", ()).plans is not None
    assert main(["plan", "job.yaml", "--hardware", "H100:8", "--pick", "99"]) == 2
    assert "there is no plan 99" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--hardware", "H1000:8"], 2, "no accelerator 'H1000'"),
        (["--hardware", "H100:0"], 2, "asks for no device"),
        (["--hardware", "H100:8", "--fleet", "x.yaml"], 2, "exclude each other"),
        (["--hardware", "H100:8", "--price", "H100=free"], 2, "a price above 0"),
        (["--hardware", "H100:8", "--price", "B200=3"], 2, "none of this hardware is NVIDIA B200"),
        (["--price", "H100=3"], 2, "--price needs --hardware or --fleet"),
        (["--hardware", "H100:8", "--plot", "x.gif"], 2, "a picture ends with"),
        (["--hardware", "H100:8", "--plot", "none/x.png"], 2, "no such folder"),
        (["--hardware", "H100:8", "--set", "limits.budget=0.01"], 3, "more than its budget"),
        (["--hardware", "H100:8", "--set", "limits.deadline=1s"], 3, "after its deadline"),
        (["--hardware", "H100:8", "--set", "limits.budget=-5"], 2, "limits.budget"),
        (["--hardware", "H100:8", "--set", "model={layers: 4, hidden: 128}"], 2, "'heads' is missing"),
        (["--fleet", "none.yaml"], 2, "cannot be read"),
    ],
)
def test_bad_input_is_told_in_one_line(files, capsys, words, code, says):
    assert main(["plan", "job.yaml", *words]) == code
    *_, error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert says in error
    assert hint.startswith("hint: ")


@pytest.mark.parametrize(
    ("chip", "network", "says"),
    [
        ("Foo9", "400Gb/s", "fleet.yaml:7: clusters.0.nodes.0.accelerator: there is no accelerator 'Foo9'"),
        ("H100", "-5Gb/s", "fleet.yaml:7: clusters.0.nodes.0.network: '-5Gb/s'"),
        ("H100", "0", "fleet.yaml:7: clusters.0.nodes.0.network"),
    ],
)
def test_a_wrong_fleet_file_names_the_line(files, capsys, chip, network, says):
    (files / "fleet.yaml").write_text(FLEET % (chip, network))
    assert main(["plan", "job.yaml", "--fleet", "fleet.yaml"]) == 2
    assert says in capsys.readouterr().err


def test_prices_in_an_unknown_currency_are_refused(files, capsys):
    folder = files / "home" / "catalog" / "prices"
    folder.mkdir(parents=True)
    (folder / "mine.csv").write_text("accelerator,price_per_device_hour,currency\nH100,3,XYZ\n")
    assert main(["plan", "job.yaml", "--hardware", "H100:8"]) == 2
    assert "line 2, column currency: 'XYZ' is not a currency" in capsys.readouterr().err


def test_a_level_that_nothing_keeps_is_refused_with_the_closest_figure(files, capsys):
    (files / "serve.yaml").write_text(
        "kind: serve\nversion: 1\nmodel: llama-3.1-70b\ntraffic: {input: 500, output: 200, rate: 2}\nslo: {tpot: 1ms}\n"
    )
    assert main(["plan", "serve.yaml", "--hardware", "H100:1..8"]) == 3
    error = capsys.readouterr().err.splitlines()[-2]
    assert "later than the service level allows" in error
    assert "allowed" in error


def test_a_chip_known_only_by_its_data_sheet_gets_a_wide_interval_and_a_sentence(files, capsys):
    widths = {}
    for chip in ("MLU590", "H100"):
        assert main(["plan", "job.yaml", "--hardware", f"{chip}:8", "-n", "1", "-o", "json"]) == 0
        (best,) = json.loads(capsys.readouterr().out)["plans"]
        interval = best["estimate"]["step_time_90"]
        widths[chip] = interval["high"] / interval["low"]
    assert widths["MLU590"] > 1.3 * widths["H100"]
    assert main(["plan", "job.yaml", "--hardware", "MLU590:8", "-n", "1", "--explain"]) == 0
    assert "interval is wide" in " ".join(capsys.readouterr().out.split())


@pytest.mark.serial
def test_the_controller_explains_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MOFANG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "110")
    (tmp_path / "job.yaml").write_text(JOB)
    try:
        assert main(["plan", str(tmp_path / "job.yaml"), "--hardware", "H100:8", "-n", "2", "--explain"]) == 0
    finally:
        with Client.connect(tmp_path / "home", start=False) as client:
            client.shutdown()
    out = capsys.readouterr().out
    assert "if it were different" in out
    assert "why 1 before 2" in out
