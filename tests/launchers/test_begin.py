"""Plans for other frameworks as launch specifications: who starts which ranks, and what comes before."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mofang.domain.estimate import Interval, ServiceEstimate
from mofang.domain.hardware import Node, Precision
from mofang.domain.job import Allocation, Attempt, Job, NodeDevices
from mofang.domain.model import ModelArchitecture
from mofang.domain.plan import Part, Placement, Plan, Role, Service
from mofang.domain.scenario import Environment, Lengths, Pretrain, Scenario, Serve, TextData, Traffic
from mofang.domain.strategy import Parallelism, Sharding, Strategy
from mofang.errors import InfeasibleError, SpecError
from mofang.launchers.begin import prepare, started_as
from mofang.launchers.build import launch_spec
from mofang.testing import ManualClock

MODEL = ModelArchitecture(
    name="m", layers=4, hidden=128, heads=4, kv_heads=2, ffn=344, vocab=256, head_dim=32, max_sequence=256
)
TEXT = TextData(paths=("/d/t.jsonl",), tokenizer="/m/tokenizer.json")
TASK = Pretrain(model=MODEL, data=TEXT, sequence=256, global_batch=16, checkpoint_every_steps=10)
TRAFFIC = Traffic(input=Lengths(quantiles=(9.0, 9.0)), output=Lengths(quantiles=(9.0, 9.0)))
SERVE = Serve(model=MODEL, model_path="/m", traffic=TRAFFIC)
ONE = Interval(low=1.0, high=1.0)
SERVICE = Service(
    replicas=4,
    concurrency=8,
    precision=Precision.BF16,
    kv_precision=Precision.BF16,
    estimate=ServiceEstimate(
        ttft_s=1.0,
        ttft_tail_s=1.0,
        tpot_s=1.0,
        tpot_tail_s=1.0,
        tokens_per_s=1.0,
        requests_per_s=1.0,
        max_requests_per_s=1.0,
        concurrency=1.0,
        kv_tokens=1.0,
        memory_bytes=1.0,
        tokens_per_s_90=ONE,
        tpot_90=ONE,
        ttft_90=ONE,
    ),
)
NAMES = ("n0", "n1")


def plan_for(framework, **changes):
    """Return a plan on the four accelerators of each of two nodes."""
    cut = changes.pop("parallelism", Parallelism(dp=8))
    changes |= {"precision": Precision.BF16, "accumulation": 2}
    placement = Placement(cluster="local", accelerator="h100", num_devices=8, num_nodes=2)
    service = SERVICE if cut.dp == 1 else None
    strategy = Strategy(framework=framework, parallelism=cut, **changes)
    return Plan(strategy=strategy, placement=placement, steps=None if service else 9, service=service)


def launch(task, plan, **scenario):
    nodes = {
        name: Node(name=name, cluster="local", devices=(), cores=4, memory_bytes=1, address="10.0.0.1")
        for name in NAMES
    }
    parts = tuple(NodeDevices(node=name, accelerator="h100", indices=(0, 1, 2, 3)) for name in NAMES)
    job = Job(id="j1", name="j", scenario=Scenario(name="j", task=task, **scenario), plans=(plan,))
    attempt = Attempt(job_id="j1", number=3, fence=7, plan_index=0, allocation=Allocation(cluster="local", nodes=parts))
    return launch_spec(
        job=job, plan=plan, attempt=attempt, nodes=nodes, home=Path("/h"), wake=("mofang",), wake_socket="/s"
    )


def test_a_framework_with_one_process_a_device_is_started_as_its_launcher_says():
    model = replace(MODEL, layers=32, hidden=4096, heads=32, ffn=14336)
    task = replace(TASK, model=model)
    plan = plan_for("torchtitan", sharding=Sharding.FSDP)
    spec = launch(task, plan, environment=Environment(venv="/venvs/titan"))
    assert spec.argv[:3] == ("/venvs/titan/bin/python", "-m", "torchtitan.train")
    assert [node.workers for node in spec.nodes] == [4, 4]


def test_data_is_prepared_before_the_program_begins():
    spec = launch(TASK, plan_for("megatron", sharding=Sharding.ZERO1), environment=Environment(workdir="/megatron"))
    begin = json.loads(spec.files["begin.json"])
    assert spec.argv[-1] == f"{spec.attempt_dir}/begin.json"
    assert begin["prepare"][0][1] == "/megatron/tools/preprocess_data.py"
    assert begin["argv"][1] == "/megatron/pretrain_gpt.py"
    assert not begin["one_per_node"]
    again = launch(TASK, plan_for("megatron", sharding=Sharding.ZERO1), environment=Environment(workdir="/megatron"))
    assert json.loads(again.files["begin.json"])["prepared"] == begin["prepared"]  # once in the life of the job


def test_a_server_that_starts_its_own_ranks_is_one_worker_a_node_and_copies_are_several():
    two = Parallelism(tp=2)
    assert [node.workers for node in launch(SERVE, plan_for("sglang", parallelism=two)).nodes] == [1, 1]
    spec = launch(SERVE, plan_for("tensorrt-llm", parallelism=two))
    assert [node.workers for node in spec.nodes] == [2, 2]
    begin = json.loads(spec.files["begin.json"])
    started = [
        started_as(begin, {"LOCAL_RANK": rank, "RANK": "3", "WORLD_SIZE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
        for rank in ("0", "1")
    ]
    assert [env["CUDA_VISIBLE_DEVICES"] for _, env in started] == ["0,1", "2,3"]
    assert [argv[argv.index("--port") + 1] for argv, _ in started] == ["8000", "8001"]
    assert not any("RANK" in env or "WORLD_SIZE" in env for _, env in started)


def test_a_plan_of_several_parts_is_not_started():
    plan = plan_for("megatron", sharding=Sharding.ZERO1)
    part = Part(role=Role.STAGES, placement=plan.placement, parallelism=plan.strategy.parallelism, share=0.5)
    with pytest.raises(InfeasibleError, match=r"several parts .* cannot be run as one job"):
        launch(TASK, replace(plan, parts=(part, part)))


def test_preparing_is_done_once_and_a_failure_is_the_exit_code(tmp_path):
    done, ledger = tmp_path / "data" / "prepared", tmp_path / "ledger"
    note = (sys.executable, "-c", "import sys; open(sys.argv[1], 'a').write('x')", str(ledger))
    clock = ManualClock()
    assert prepare([note, note], done, 0, clock) == 0
    assert prepare([note], done, 0, clock) == 0
    assert prepare([note], done, 1, clock) == 0  # another rank finds it done
    assert ledger.read_text() == "xx"
    other_done = tmp_path / "other"
    assert prepare([(sys.executable, "-c", "raise SystemExit(7)"), note], other_done, 0, clock) == 7
    assert prepare([("/no/such/program",)], other_done, 0, clock) == 127
    assert not other_done.exists()


def test_a_replica_over_several_nodes_is_refused_with_a_way_out():
    with pytest.raises(SpecError, match="one replica of this plan spans 2 nodes"):
        launch(SERVE, plan_for("vllm", parallelism=Parallelism(tp=4, pp=2)))
