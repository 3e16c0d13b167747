"""Golden commands: what each framework is started with, word for word. MOFANG_GOLDEN=1 writes them anew."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mofang.catalog.frameworks import frameworks
from mofang.catalog.knowledge import Catalog
from mofang.domain.estimate import Interval, ServiceEstimate
from mofang.domain.hardware import Precision
from mofang.domain.plan import Part, Placement, Plan, Role, Service
from mofang.domain.scenario import Environment, Finetune, Lengths, Pretrain, Serve, TextData, Traffic
from mofang.domain.strategy import Method, Offload, Parallelism, Recompute, Sharding, Strategy
from mofang.errors import SpecError
from mofang.launchers.flagtable import flag_table
from mofang.launchers.frameworks import framework_program
from mofang.launchers.services import service_program
from mofang.launchers.torchrun import torchrun_words

GOLDEN = Path(__file__).parent / "golden"
RUN = Path("/home/ada/.mofang/runs/j1/attempt-0001")
ENVIRONMENT = Environment(
    variables={"MEGATRON_PATH": "/opt/megatron", "MINDSPEED_PATH": "/opt/mindspeed"}, workdir="/w"
)
TEXT = TextData(paths=("/data/corpus.jsonl",), tokenizer="/models/m/tokenizer.json")
CATALOG = Catalog.load()


def pretrain(model, **values):
    return Pretrain(
        **{
            "model": CATALOG.model(model),
            "data": TEXT,
            "sequence": 8192,
            "global_batch": 512,
            "steps": 1000,
            "checkpoint_every_steps": 100,
            **values,
        }
    )


def plan(framework, *, devices=64, nodes=8, accelerator="NVIDIA H100-SXM-80GB", cut=None, **strategy):
    return Plan(
        strategy=Strategy(framework=framework, parallelism=cut or Parallelism(dp=devices), **strategy),
        placement=Placement(cluster="", accelerator=accelerator, num_devices=devices, num_nodes=nodes),
        steps=1000,
    )


TUNED = Finetune(
    model=CATALOG.model("Llama-3.1-8B"),
    model_path="/models/m",
    data=TEXT,
    sequence=4096,
    global_batch=32,
    steps=100,
)
# What the plans of DeepSpeed have in common: ZeRO-3 with recomputation on one server.
DEEPSPEED = {
    "devices": 8,
    "nodes": 1,
    "sharding": Sharding.FSDP,
    "precision": Precision.BF16,
    "recompute": Recompute.FULL,
    "accumulation": 4,
}
TRAINING = {
    "megatron-dense": (
        pretrain("Llama-3.1-405B"),
        plan(
            "megatron",
            devices=1024,
            nodes=128,
            cut=Parallelism(dp=8, tp=8, pp=16, vpp=2),
            sharding=Sharding.ZERO1,
            precision=Precision.BF16,
            recompute=Recompute.SELECTIVE,
            accumulation=64,
        ),
    ),
    "megatron-experts-fp8": (
        pretrain("DeepSeek-V3", sequence=4096),
        plan(
            "megatron",
            devices=256,
            nodes=32,
            cut=Parallelism(dp=32, pp=8, ep=32),
            sharding=Sharding.ZERO1,
            precision=Precision.FP8,
            recompute=Recompute.FULL,
            accumulation=16,
        ),
    ),
    "torchtitan": (
        pretrain("Llama-3.1-70B"),
        plan(
            "torchtitan",
            cut=Parallelism(dp=8, tp=8),
            sharding=Sharding.FSDP,
            precision=Precision.FP8,
            recompute=Recompute.SELECTIVE,
            accumulation=64,
            compile=True,
        ),
    ),
    "mindspeed": (
        pretrain("Llama-3.1-8B"),
        plan(
            "mindspeed",
            devices=16,
            nodes=2,
            accelerator="Huawei Ascend 910B3 64GB",
            cut=Parallelism(dp=2, tp=4, pp=2, vpp=2),
            sharding=Sharding.ZERO1,
            precision=Precision.BF16,
            accumulation=256,
        ),
    ),
    "mindspeed-lora": (
        TUNED,
        plan(
            "mindspeed",
            devices=8,
            nodes=1,
            cut=Parallelism(dp=8),
            sharding=Sharding.DDP,
            precision=Precision.BF16,
            method=Method.LORA,
            accumulation=4,
        ),
    ),
    "deepspeed": (
        pretrain("Llama-3.1-8B", sequence=4096, global_batch=32),
        plan("deepspeed", offload=Offload.OPTIMIZER, **DEEPSPEED),
    ),
    "trl-lora": (
        TUNED,
        plan("deepspeed", method=Method.LORA, **DEEPSPEED),
    ),
}


def service_plan(framework, *, precision=Precision.FP8, parts=(), replicas=2, attention_dp=False, cut=None):
    ninety = Interval(low=1.0, high=2.0)
    estimate = ServiceEstimate(
        ttft_s=0.2,
        ttft_tail_s=0.5,
        tpot_s=0.02,
        tpot_tail_s=0.03,
        tokens_per_s=1e4,
        requests_per_s=10,
        max_requests_per_s=20,
        concurrency=64,
        kv_tokens=1e6,
        memory_bytes=7e10,
        tokens_per_s_90=ninety,
        tpot_90=ninety,
        ttft_90=ninety,
    )
    return Plan(
        strategy=Strategy(framework=framework, parallelism=cut or Parallelism(tp=4), precision=Precision.BF16),
        placement=Placement(cluster="", accelerator="NVIDIA H100-SXM-80GB", num_devices=8, num_nodes=1),
        steps=None,
        parts=parts,
        service=Service(
            replicas=replicas,
            concurrency=256,
            precision=precision,
            kv_precision=Precision.FP8,
            estimate=estimate,
            attention_dp=attention_dp,
        ),
    )


SERVE = Serve(
    model=CATALOG.model("Llama-3.1-70B"),
    model_path="/models/m",
    traffic=Traffic(input=Lengths(quantiles=(100, 2000)), output=Lengths(quantiles=(10, 500)), rate=10.0),
    max_sequence=8192,
)
SERVICES = {
    "vllm": service_plan("vllm"),
    "sglang-experts": service_plan("sglang", cut=Parallelism(tp=8, ep=8), attention_dp=True, replicas=1),
    "tensorrt-llm": service_plan("tensorrt-llm", replicas=1, cut=Parallelism(tp=8)),
}


def shown(program, chosen):
    words = torchrun_words(program, chosen, rendezvous="node0:29500")
    parts = ["\n".join(words), *("\n".join(command) for command in program.prepare)]
    parts += [f"{name}:\n{text}" for name, text in program.files.items()]
    parts += [f"{name}={value}" for name, value in program.env.items()]
    return "\n\n".join(parts).replace(os.sys.executable, "python") + "\n"


def check(name, text):
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("MOFANG_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TRAINING)
def test_golden_training_commands(name):
    task, chosen = TRAINING[name]
    check(name, shown(framework_program(task, chosen, RUN, ENVIRONMENT), chosen))


@pytest.mark.parametrize("name", SERVICES)
def test_golden_serving_commands(name):
    check(name, shown(framework_program(SERVE, SERVICES[name], RUN, ENVIRONMENT), SERVICES[name]))


def test_prefill_and_decode_are_started_apart():
    placement = Placement(cluster="", accelerator="NVIDIA H100-SXM-80GB", num_devices=4, num_nodes=1)
    parts = tuple(
        Part(role=role, placement=placement, parallelism=Parallelism(tp=size), share=1.0, replicas=4 // size)
        for role, size in ((Role.PREFILL, 2), (Role.DECODE, 4))
    )
    chosen = service_plan("vllm", parts=parts)
    prefill, decode = (service_program(SERVE, chosen, RUN, role=part.role).argv for part in parts)
    assert prefill[prefill.index("--tensor-parallel-size") + 1] == "2"
    assert prefill[prefill.index("--data-parallel-size") + 1] == "2"
    assert "kv_producer" in prefill[prefill.index("--kv-transfer-config") + 1]
    assert decode[decode.index("--tensor-parallel-size") + 1] == "4"
    assert "kv_consumer" in decode[decode.index("--kv-transfer-config") + 1]


@given(layers=st.integers(2, 130), pp=st.integers(1, 20), vpp=st.integers(1, 4))
def test_every_layer_is_on_one_stage(layers, pp, vpp):
    model = replace(CATALOG.model("Llama-3.1-8B"), layers=layers)
    cut = Parallelism(pp=pp, vpp=vpp if pp > 1 else 1)
    chosen = plan("megatron", devices=pp, nodes=1, cut=cut, precision=Precision.BF16)
    try:
        argv = framework_program(replace(pretrain("gpt2"), model=model), chosen, RUN, ENVIRONMENT).argv
    except SpecError as error:
        assert "layers" in error.message  # noqa: PT017 - what is refused is refused for its layers
        return

    def value(flag):
        return int(argv[argv.index(flag) + 1])

    if "--decoder-first-pipeline-num-layers" in argv:
        ends = value("--decoder-first-pipeline-num-layers") + value("--decoder-last-pipeline-num-layers")
        assert layers == ends if pp == 2 else (layers - ends) % (pp - 2) == 0
    else:
        extra = 2 * ("--account-for-loss-in-pipeline-split" in argv)
        assert (layers + extra) % (cut.pp * cut.vpp) == 0


def test_attention_dp_becomes_data_parallel_ranks_with_experts_spread_over_them():
    chosen = service_plan("vllm", cut=Parallelism(tp=8, ep=8), attention_dp=True, replicas=1)
    argv = framework_program(SERVE, chosen, RUN, ENVIRONMENT).argv
    assert argv[argv.index("--tensor-parallel-size") + 1] == "1"
    assert argv[argv.index("--data-parallel-size") + 1] == "8"
    assert "--enable-expert-parallel" in argv


def test_replicas_that_a_server_cannot_start_itself_are_copies():
    chosen = service_plan("tensorrt-llm", replicas=2, cut=Parallelism(tp=4))
    assert framework_program(SERVE, chosen, RUN, ENVIRONMENT).copies == 2


def test_services_listen_on_loopback():
    for chosen in SERVICES.values():
        argv = framework_program(SERVE, chosen, RUN, ENVIRONMENT).argv
        assert argv[argv.index("--host") + 1] == "127.0.0.1"


def test_degrees_in_the_command_are_those_of_the_plan():
    task, chosen = TRAINING["megatron-dense"]
    argv = framework_program(task, chosen, RUN, ENVIRONMENT).argv
    cut = chosen.strategy.parallelism
    for flag, value in (
        ("--tensor-model-parallel-size", cut.tp),
        ("--pipeline-model-parallel-size", cut.pp),
        ("--num-virtual-stages-per-pipeline-rank", cut.vpp),
        ("--micro-batch-size", chosen.strategy.micro_batch),
        ("--global-batch-size", task.global_batch),
    ):
        assert argv[argv.index(flag) + 1] == str(value)


@pytest.mark.parametrize(
    ("task", "chosen", "message"),
    [
        (TRAINING["torchtitan"][0], plan("torchtitan", precision=Precision.FP4, sharding=Sharding.FSDP), "fp4"),
        (pretrain("gpt2"), plan("torchtitan", precision=Precision.BF16, sharding=Sharding.FSDP), "does not build gpt2"),
        (pretrain("gpt2"), plan("megatron", precision=Precision.BF16, sharding=Sharding.FSDP), "sharding fsdp"),
        (pretrain("gpt2"), plan("llm-foundry", sharding=Sharding.DDP), "no launcher for pretrain with llm-foundry"),
        (
            pretrain("gpt2", data=TextData(paths=("python-stdlib",))),
            plan("megatron", precision=Precision.BF16, sharding=Sharding.DDP),
            "reads one file or folder",
        ),
    ],
)
def test_what_a_framework_cannot_do_is_refused(task, chosen, message):
    with pytest.raises(SpecError, match=message):
        framework_program(task, chosen, RUN, ENVIRONMENT)


def test_every_framework_with_a_launcher_of_its_own_states_its_version():
    own = {"gpt", "finetune", "classify", "serving"}
    for name, framework in frameworks().items():
        if framework.launcher and name not in own:
            table = flag_table(name)
            assert table.version
            assert table.source
            assert len(set(table.flags.values())) == len(table.flags)


def test_files_of_a_command_are_well_formed():
    deepspeed = framework_program(*TRAINING["deepspeed"], RUN, ENVIRONMENT).files["deepspeed.json"]
    settings = json.loads(deepspeed)
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["train_batch_size"] == settings["train_micro_batch_size_per_gpu"] * 4 * 8
    options = framework_program(SERVE, SERVICES["tensorrt-llm"], RUN, ENVIRONMENT).files["serving.yaml"]
    assert yaml.safe_load(options)["kv_cache_config"] == {"dtype": "fp8"}
