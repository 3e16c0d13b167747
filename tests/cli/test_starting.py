"""``mofang plan -o command``: every plan that can be started has a script that says how."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.cli.starting import start_script
from mofang.domain.estimate import Interval, ServiceEstimate
from mofang.domain.hardware import CPU, Precision
from mofang.domain.plan import Part, Placement, Plan, Role, Service
from mofang.domain.scenario import Classify, ImageData, Lengths, Scenario, Serve, Traffic, VisionModel
from mofang.domain.strategy import Parallelism, Sharding, Strategy
from mofang.errors import SpecError

ONE = Interval(low=1.0, high=1.0)
FIGURES = ("ttft_s", "ttft_tail_s", "tpot_s", "tpot_tail_s", "tokens_per_s", "requests_per_s", "max_requests_per_s")
NINETY = ("tokens_per_s_90", "tpot_90", "ttft_90")
ESTIMATE = ServiceEstimate(
    **dict.fromkeys((*FIGURES, "concurrency", "kv_tokens", "memory_bytes"), 1.0), **dict.fromkeys(NINETY, ONE)
)
IMAGES = Classify(
    model=VisionModel(name="v", image_size=32, patch_size=4, layers=2, hidden=64, heads=2, ffn=128),
    data=ImageData(path="/d", num_images=100, num_classes=10, channels=3),
    global_batch=2,
    steps=5,
)


def a_plan(framework: str, cut: Parallelism, devices: int = 8, **values: object) -> Plan:
    accelerator = CPU if framework == "classify" else "h100"
    return Plan(
        strategy=Strategy(framework=framework, parallelism=cut, sharding=Sharding.DDP),
        placement=Placement(cluster="", accelerator=accelerator, num_devices=devices, num_nodes=1),
        steps=values.pop("steps", None),  # type: ignore[arg-type]
        **values,  # type: ignore[arg-type]
    )


def is_shell(script: str) -> bool:
    return subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


def test_image_classification_is_started_by_torchrun():
    script = start_script(Scenario(name="cats", task=IMAGES), a_plan("classify", Parallelism(dp=2), 2, steps=5))
    assert is_shell(script)
    assert "-m mofang.recipes.classify --config cats/start/recipe.json" in script
    assert "--nproc-per-node=2" in script


def test_copies_have_devices_and_a_port_of_their_own():
    traffic = Traffic(input=Lengths(quantiles=(9.0, 9.0)), output=Lengths(quantiles=(9.0, 9.0)))
    task = Serve(model=Catalog.load().model("llama-3.1-70b"), model_path="/m", traffic=traffic)
    plain = {"concurrency": 8, "precision": Precision.BF16, "kv_precision": Precision.BF16, "estimate": ESTIMATE}
    plan = a_plan("tensorrt-llm", Parallelism(tp=4), service=Service(replicas=2, **plain))
    script = start_script(Scenario(name="chat", task=task), plan)
    assert is_shell(script)
    started = [line for line in script.splitlines() if "trtllm-serve /m" in line]
    assert [line.split()[1] for line in started] == ["CUDA_VISIBLE_DEVICES=0,1,2,3", "CUDA_VISIBLE_DEVICES=4,5,6,7"]
    assert ["--port 8000" in started[0], "--port 8001" in started[1]] == [True, True]
    assert "pip install tensorrt_llm" in script


def test_a_job_on_two_kinds_of_chips_has_no_script():
    plan = a_plan("classify", Parallelism(dp=2), 2, steps=5)
    part = Part(role=Role.REPLICAS, placement=plan.placement, parallelism=Parallelism(), share=0.5)
    with pytest.raises(SpecError, match="no launcher starts one job on two kinds of chips"):
        start_script(Scenario(name="cats", task=IMAGES), replace(plan, parts=(part, part)))
