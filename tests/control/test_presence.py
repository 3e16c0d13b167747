"""Jobs for other frameworks: refused in a line where those are not there, and run like any other where they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mofang.client import Client
from mofang.control import presence
from mofang.domain.hardware import CPU
from mofang.domain.job import Job, JobState
from mofang.domain.model import ModelArchitecture
from mofang.domain.plan import Part, Placement, Plan, Role
from mofang.domain.scenario import Environment, Finetune, Pretrain, RestartPolicy, Scenario, TextData
from mofang.domain.strategy import Parallelism, Sharding, Strategy
from mofang.errors import InfeasibleError, SpecError
from mofang.launchers.program import OWN
from mofang.testing import a_plan, a_scenario

MODEL = ModelArchitecture(
    name="m", layers=2, hidden=64, heads=4, kv_heads=2, ffn=96, vocab=260, head_dim=16, max_sequence=256
)
TEXT = TextData(paths=("/d/t.jsonl",), tokenizer="/m/tokenizer.json")
TUNED = Finetune(model=MODEL, model_path="/m", data=TEXT, sequence=64, global_batch=8, steps=20)
PLACE = Placement(cluster="local", accelerator=CPU, num_devices=2, num_nodes=1)


def plan_for(framework: str) -> Plan:
    strategy = Strategy(framework=framework, parallelism=Parallelism(dp=2), sharding=Sharding.DDP, micro_batch=4)
    return Plan(strategy=strategy, placement=PLACE, steps=20)


def job_for(task: Any, framework: str, **environment: Any) -> Job:
    scenario = Scenario(
        name="j", task=task, environment=Environment(**environment), restart=RestartPolicy(max_restarts=0)
    )
    return Job(id="j", name="j", scenario=scenario, plans=(plan_for(framework),))


def a_venv(folder: Path, *modules: str) -> str:
    """Return a virtual environment whose interpreter finds these modules beside its own."""
    (folder / "bin").mkdir(parents=True)
    (folder / "lib").mkdir()
    for name in modules:
        (folder / "lib" / f"{name}.py").touch()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder}/lib exec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return str(folder)


def test_own_recipes_are_not_asked_for():
    assert not any(presence.is_needed(job_for(TUNED, name)) for name in OWN)
    assert presence.is_needed(job_for(TUNED, "trl"))


def test_what_is_missing_is_named_with_how_to_get_it(tmp_path):
    with pytest.raises(InfeasibleError, match=r"trl is not installed here: .*bin/python has no trl") as caught:
        presence.check(job_for(TUNED, "trl", venv=a_venv(tmp_path / "v", "accelerate", "datasets")), tmp_path)
    assert "pip install trl" in caught.value.hint
    assert "-o command" in caught.value.hint
    assert caught.value.exit_code == 3


def test_what_is_there_is_accepted(tmp_path):
    venv = a_venv(tmp_path / "v", "trl", "accelerate", "datasets")
    presence.check(job_for(TUNED, "trl", venv=venv), tmp_path)
    with pytest.raises(InfeasibleError, match="deepspeed is not installed here"):
        presence.check(job_for(TUNED, "deepspeed", venv=venv), tmp_path)
    presence.check(job_for(TUNED, "deepspeed", modules=("deepspeed/0.19",)), tmp_path)  # the host alone can tell


def test_a_script_that_is_not_there_is_named(tmp_path):
    task = Pretrain(model=MODEL, data=TEXT, sequence=64, global_batch=8, steps=20)
    with pytest.raises(InfeasibleError, match=r"there is no file .*/run_clm.py"):
        presence.check(job_for(task, "deepspeed", variables={"RUN_CLM_PATH": str(tmp_path)}), tmp_path)


def test_what_no_launcher_writes_is_said_before_the_job_is_accepted(tmp_path):
    with pytest.raises(SpecError, match="there is no launcher for finetune with megatron"):
        presence.check(job_for(TUNED, "megatron"), tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    with Client(tmp_path / "home") as client:
        client.shutdown()


def ended(client: Client, job_id: str) -> Job:
    give_up = time.monotonic() + 60.0
    while not client.job(job_id).state.is_final and time.monotonic() < give_up:
        time.sleep(0.1)
    return client.job(job_id)


# In place of TRL: a torchrun script that only takes part in a collective, found by the same look-up.
SCRIPT = """
import os, sys, torch.distributed as dist, torch
dist.init_process_group("gloo")
total = torch.tensor([1.0 + dist.get_rank()])
dist.all_reduce(total)
print("sum", total.item(), "of", dist.get_world_size(), sys.argv[sys.argv.index("--max_steps") + 1], flush=True)
dist.destroy_process_group()
"""


@pytest.mark.serial
@pytest.mark.timeout(120)
def test_a_plan_for_another_framework_runs_like_any_job(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    venv = a_venv(tmp_path / "v", "accelerate", "datasets")
    (tmp_path / "v/lib/trl/scripts").mkdir(parents=True)
    for file in ("trl/__init__.py", "trl/scripts/__init__.py"):
        (tmp_path / "v/lib" / file).touch()
    (tmp_path / "v/lib/trl/scripts/sft.py").write_text(SCRIPT, encoding="utf-8")
    scenario = job_for(TUNED, "trl", venv=venv).scenario
    with Client.connect(home) as client:
        submitted = client.submit(scenario, (plan_for("trl"),))
        job = ended(client, submitted.job_id)
        assert job.state is JobState.SUCCEEDED
        assert [client.logs(job.id, rank=rank).text for rank in (0, 1)] == ["sum 3.0 of 2 20\n"] * 2
        bare = replace(scenario, environment=Environment(venv=a_venv(tmp_path / "w")))
        with pytest.raises(InfeasibleError, match="trl is not installed here"):
            client.submit(bare, (plan_for("trl"),))
        part = Part(role=Role.REPLICAS, placement=PLACE, parallelism=Parallelism(), share=0.5)
        with pytest.raises(InfeasibleError, match="several parts"):
            client.submit(a_scenario(), (replace(a_plan(), parts=(part, part)),))
        assert len(client.jobs()) == 1
