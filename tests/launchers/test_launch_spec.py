import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mofang.domain.codec import decode, to_data
from mofang.domain.estimate import Estimate, Interval
from mofang.domain.hardware import Node
from mofang.domain.job import Allocation, Attempt, Job, NodeDevices
from mofang.domain.model import ModelArchitecture
from mofang.domain.plan import Placement, Plan
from mofang.domain.recipe import DeviceKind, FinetuneConfig, GptConfig
from mofang.domain.scenario import (
    Command,
    Environment,
    Finetune,
    Mount,
    Optimisation,
    Pretrain,
    RestartPolicy,
    Scenario,
    Secret,
    TextData,
    WorkdirMode,
)
from mofang.domain.strategy import Method, Parallelism, Sharding, Strategy
from mofang.errors import BackendError, SpecError
from mofang.launchers.build import launch_spec

HOME = Path("/home/ada/.mofang")
MODEL = ModelArchitecture(
    name="m", layers=4, hidden=128, heads=4, kv_heads=2, ffn=344, vocab=256, head_dim=32, max_sequence=256
)
TASK = Pretrain(
    model=MODEL, data=TextData(paths=("python-stdlib",)), sequence=256, global_batch=16, checkpoint_every_s=10
)
ESTIMATE = Estimate(
    step_time_s=0.4,
    step_time_90=Interval(low=0.3, high=0.5),
    tokens_per_s=10_000,
    mfu=0.4,
    memory_bytes=1e9,
    peak_flops=1.4e11,
    total_time_s=90,
)
NODES = {
    "n0": Node(name="n0", cluster="local", devices=(), cores=4, memory_bytes=1, address="10.0.0.1"),
    "n1": Node(
        name="n1",
        cluster="local",
        devices=(),
        cores=4,
        memory_bytes=1,
        address="10.0.0.2",
        prefix=("ssh", "n1"),
        domain="rack-2",
    ),
}


def plan_for(accelerator="cpu", *, threads=2, devices=8, estimate=ESTIMATE, steps=225):
    workers = devices // threads
    strategy = Strategy(
        parallelism=Parallelism(dp=workers), sharding=Sharding.DDP, micro_batch=16 // workers, threads=threads
    )
    placement = Placement(cluster="local", accelerator=accelerator, num_devices=devices, num_nodes=2)
    return Plan(strategy=strategy, placement=placement, steps=steps, estimate=estimate)


def render(task=TASK, plan=None, *, accelerator="cpu", nodes=NODES, **scenario):
    plan = plan or plan_for(accelerator)
    half = plan.placement.num_devices // 2
    allocation = Allocation(
        cluster="local",
        nodes=tuple(NodeDevices(node=name, accelerator=accelerator, indices=tuple(range(half))) for name in NODES),
    )
    job = Job(id="j1", name="code-gpt", scenario=Scenario(name="code-gpt", task=task, **scenario), plans=(plan,))
    attempt = Attempt(job_id="j1", number=3, fence=7, plan_index=0, allocation=allocation)
    return launch_spec(
        job=job, plan=plan, attempt=attempt, nodes=nodes, home=HOME, wake=("mofang", "wake"), wake_socket="/s"
    )


def recipe(spec):
    return decode(GptConfig, spec.files["recipe.json"])


def test_the_golden_specification_of_the_recipe():
    spec = render()
    rendered = to_data(spec)
    config = json.loads(rendered.pop("files")["recipe.json"])
    assert rendered == {
        "job_id": "j1",
        "attempt": 3,
        "fence": 7,
        "run_dir": "/home/ada/.mofang/runs/j1",
        "nodes": [
            {
                "node": "n0",
                "address": "10.0.0.1",
                "prefix": [],
                "accelerator": "cpu",
                "device_indices": [0, 1, 2, 3],
                "workers": 2,
                "domain": "",
                "spare": False,
                "hazard_per_s": None,
            },
            {
                "node": "n1",
                "address": "10.0.0.2",
                "prefix": ["ssh", "n1"],
                "accelerator": "cpu",
                "device_indices": [0, 1, 2, 3],
                "workers": 2,
                "domain": "rack-2",
                "spare": False,
                "hazard_per_s": None,
            },
        ],
        "argv": [
            sys.executable,
            "-m",
            "mofang.recipes.gpt",
            "--config",
            "/home/ada/.mofang/runs/j1/attempt-0003/recipe.json",
        ],
        "env": {"MOFANG_DATA_DIR": "/home/ada/.mofang/data", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
        "secrets_file": None,
        "environment": to_data(Environment()),
        "workdir": None,
        "restart": to_data(RestartPolicy()),
        "grace_s": 10.0,
        "standby": True,
        "wake": ["mofang", "wake"],
        "wake_socket": "/s",
    }
    assert config["steps"] == 225
    assert config["device"] == "cpu"
    assert config["peak_flops"] == 1.4e11
    assert config["strategy"]["parallelism"]["dp"] == 4
    assert config["task"]["model"]["layers"] == 4
    assert config["task"]["checkpoint_every_steps"] == 25


def test_what_is_written_is_what_the_recipe_reads():
    config = recipe(render())
    assert config.task == replace(TASK, checkpoint_every_steps=25)
    assert config.save_every == 25
    assert config.device is DeviceKind.CPU


@pytest.mark.parametrize(
    ("task", "estimate", "steps"),
    [
        (TASK, ESTIMATE, 25),
        (replace(TASK, checkpoint_every_s=0.1), ESTIMATE, 1),
        (replace(TASK, checkpoint_every_steps=7), ESTIMATE, 7),
        (replace(TASK, checkpoint_every_steps=0), ESTIMATE, 0),
        (TASK, None, 50),
    ],
)
def test_seconds_between_checkpoints_become_steps(task, estimate, steps):
    assert recipe(render(task, plan_for(estimate=estimate))).task.checkpoint_every_steps == steps


def test_on_accelerators_there_is_one_worker_a_device():
    spec = render(plan=plan_for("H100", threads=1), accelerator="H100")
    assert [node.workers for node in spec.nodes] == [4, 4]
    assert recipe(spec).device is DeviceKind.CUDA
    assert "PYTORCH_CUDA_ALLOC_CONF" in spec.env


FINETUNE = Finetune(
    model=MODEL,
    model_path="/models/m",
    data=TextData(paths=("/data/pairs.jsonl",)),
    sequence=256,
    global_batch=16,
    checkpoint_every_s=10,
    optimisation=Optimisation(lr=2e-4),
)


def finetune_plan(method=Method.LORA, **changes):
    plan = plan_for()
    return replace(plan, strategy=replace(plan.strategy, framework="finetune", method=method), **changes)


def test_the_golden_specification_of_fine_tuning():
    spec = render(FINETUNE, finetune_plan())
    assert spec.argv[1:] == (
        "-m",
        "mofang.recipes.finetune",
        "--config",
        "/home/ada/.mofang/runs/j1/attempt-0003/recipe.json",
    )
    assert spec.env["OMP_NUM_THREADS"] == "2"
    config = decode(FinetuneConfig, spec.files["recipe.json"])
    assert config.task == replace(FINETUNE, checkpoint_every_steps=25)
    assert config.output == "/home/ada/.mofang/runs/j1/output"
    assert (config.steps, config.device, config.peak_flops) == (225, DeviceKind.CPU, 1.4e11)
    assert config.step_flops == pytest.approx(0.4 * 1.4e11 * 0.4)  # what the plan's MFU counts
    assert config.adapted


@pytest.mark.parametrize(
    ("asked", "chosen", "rate"),
    [
        (None, Method.FULL, 2e-5),
        (None, Method.LORA, 2e-4),
        (Method.FULL, Method.FULL, 2e-4),
        (Method.LORA, Method.LORA, 2e-4),
    ],
)
def test_all_weights_are_trained_at_a_tenth_of_the_rate_of_adapters_where_the_plan_chose(asked, chosen, rate):
    spec = render(replace(FINETUNE, method=asked), finetune_plan(chosen))
    assert decode(FinetuneConfig, spec.files["recipe.json"]).task.optimisation.lr == pytest.approx(rate)


@pytest.mark.parametrize(
    ("task", "plan", "why"),
    [
        (FINETUNE, finetune_plan(Method.QLORA), "cannot train with qlora"),
        (replace(FINETUNE, model_path=None), finetune_plan(), "needs its weights"),
        (replace(FINETUNE, data=TextData(paths=())), finetune_plan(), "nothing to train on"),
        (FINETUNE, finetune_plan(steps=None), "how many steps"),
    ],
)
def test_fine_tuning_that_cannot_run_is_said_before_anything_starts(task, plan, why):
    with pytest.raises(SpecError, match=why):
        render(task, plan)


def test_the_golden_specification_of_a_command():
    task = Command(argv=("python", "train.py", "--epochs", "3"), workers=4, cores_per_worker=2)
    environment = Environment(
        venv="/venvs/a",
        modules=("cuda/12",),
        workdir="/src/project",
        variables={"MODE": "fast"},
        secrets=(Secret(name="TOKEN", source="env", reference="TOKEN"),),
        mounts=(Mount(target="data", source="/data"),),
    )
    spec = render(task, plan_for(estimate=None, steps=None), environment=environment, grace_s=3.0)
    assert spec.argv == task.argv
    assert spec.files == {}
    assert spec.env == {"MOFANG_DATA_DIR": "/home/ada/.mofang/data", "OMP_NUM_THREADS": "2"}
    assert spec.environment == environment
    assert spec.workdir == "/src/project"
    assert spec.secrets_file == "/home/ada/.mofang/secrets/j1.json"
    assert spec.grace_s == 3.0
    assert spec.world_size == 4


def test_an_uploaded_directory_is_used_where_it_was_put():
    environment = Environment(workdir="/src/project", workdir_mode=WorkdirMode.UPLOAD)
    assert render(environment=environment).workdir == "/home/ada/.mofang/runs/j1/workdir"


def test_a_node_that_is_gone_is_said():
    with pytest.raises(BackendError, match="n1 is not there"):
        render(nodes={"n0": NODES["n0"]})


def test_a_plan_for_another_framework_is_never_run_by_a_recipe():
    plan = plan_for()
    with pytest.raises(SpecError, match="no recipe of Mofang runs a pretrain scenario with finetune"):
        render(plan=replace(plan, strategy=replace(plan.strategy, framework="finetune")))
    with pytest.raises(SpecError, match="there is no launcher for pretrain with maxtext"):
        render(plan=replace(plan, strategy=replace(plan.strategy, framework="maxtext")))


def test_a_model_that_the_recipe_cannot_build_is_said_before_anything_starts():
    with pytest.raises(SpecError, match="learned positions"):
        render(replace(TASK, model=replace(MODEL, learned_positions=True)))
    with pytest.raises(SpecError, match="how many steps"):
        render(plan=plan_for(steps=None))


def test_nodes_beyond_the_plans_are_spare_and_count_as_no_workers():
    plan = plan_for()
    plan = replace(
        plan,
        strategy=replace(plan.strategy, parallelism=Parallelism(dp=2), micro_batch=8),
        placement=replace(plan.placement, num_devices=4, num_nodes=1),
    )
    spec = render(plan=plan, restart=RestartPolicy(spare_nodes=1, min_nodes=1))
    assert [node.spare for node in spec.nodes] == [False, True]
    assert spec.world_size == spec.nodes[0].workers == spec.nodes[1].workers


def test_what_is_made_for_one_number_of_nodes_does_not_go_on_with_fewer():
    plan = plan_for()
    other = replace(plan, strategy=replace(plan.strategy, framework="megatron"))
    with pytest.raises(SpecError, match="megatron starts cannot go on with fewer nodes"):
        render(plan=other, restart=RestartPolicy(min_nodes=1))
