"""Fine-tuning jobs from their files to their results: the real service, agents and workers of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.client import Client
from mofang.domain.job import JobState
from mofang.domain.strategy import Method
from mofang.errors import SpecError
from mofang.spec.job_file import load_job_file
from mofang.testing import a_model_folder, until

pytestmark = pytest.mark.serial

JOB = """\
kind: {kind}
model: base
data: {{text: pairs.jsonl, validation: 0.1}}
train: {{sequence: 64, global_batch: 8, steps: {steps}, lr: {lr}, checkpoint_every: 5, validate_every: 20}}
strategy: {{workers: {workers}, threads: 1}}
resources: {{devices: "cpu:{workers}"}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    a_model_folder(tmp_path / "base")
    names = ["red", "green", "blue", "black", "white"]
    rows = [{"prompt": f"{number} {names[number % 5]}:", "response": names[number % 5]} for number in range(400)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def submit(client: Client, folder: Path, **values: object) -> str:
    path = folder / "job.yaml"
    path.write_text(JOB.format(**values))
    scenario = load_job_file(path, catalog=Catalog.load()).scenario
    plans = client.plan(scenario).plans
    assert plans[0].strategy.framework == "finetune"
    return client.submit(scenario, plans).job_id


def mofang(home: Path, *words: str) -> str:
    environment = {**os.environ, "MOFANG_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "mofang", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_lora_job_learns_survives_a_kill_and_leaves_an_adapter(home: Path, folder: Path) -> None:
    with Client.connect(home) as client:
        job_id = submit(client, folder, kind="lora", lr="1e-2", workers=2, steps=40)
        spool = home / "runs" / job_id / "attempt-0001" / "spool" / "r0000-g0001.jsonl"
        [started] = until(lambda: client.events(job_id, kinds=["generation-started"])[0])
        until(lambda: spool.exists() and '"step":8,' in spool.read_text())
        os.kill(started.data["pids"]["1"], signal.SIGKILL)
        until(lambda: client.job(job_id).state.is_final)
        job = client.job(job_id)
        assert job.state is JobState.SUCCEEDED, client.logs(job_id).text
        assert job.plans[0].strategy.method is Method.LORA
        events, _ = client.events(job_id, limit=10_000)
    kinds = [event.kind.value for event in events]
    assert kinds.count("generation-started") == 2
    [loaded] = [event for event in events if event.kind == "checkpoint-loaded"]
    assert loaded.data["step"] >= 5
    losses = [event.data["loss"] for event in events if event.kind == "validation"]
    first = next(event.data["loss"] for event in events if event.kind == "step")
    assert losses[-1] < 0.75 * first
    [exported] = [event.data for event in events if event.kind == "exported"]
    output = home / "runs" / job_id / "output"
    assert exported["path"] == str(output)
    assert {file.name for file in output.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert job_id in mofang(home, "ps", "-a")
    assert "fine-tune base" in mofang(home, "explain", job_id)
    assert Path(mofang(home, "report", job_id, "--out", str(folder / "report")).strip()).exists()


def test_a_full_fine_tuning_job_leaves_a_folder_that_can_be_trained_further(home: Path, folder: Path) -> None:
    with Client.connect(home) as client:
        job_id = submit(client, folder, kind="finetune\nmethod: full", lr="5e-3", workers=1, steps=40)
        until(lambda: client.job(job_id).state.is_final)
        assert client.job(job_id).state is JobState.SUCCEEDED, client.logs(job_id).text
        events, _ = client.events(job_id, limit=10_000)
        losses = [event.data["loss"] for event in events if event.kind == "validation"]
        output = home / "runs" / job_id / "output"
        (folder / "next.yaml").write_text(
            JOB.format(kind="lora", lr="1e-3", workers=1, steps=1).replace("base", str(output))
        )
        task = load_job_file(folder / "next.yaml", catalog=Catalog.load()).scenario.task
    assert losses[-1] < 4.0
    assert task.model_path == str(output)  # type: ignore[union-attr]


def test_a_model_that_is_only_a_name_can_be_planned_and_not_run(home: Path, folder: Path) -> None:
    path = folder / "job.yaml"
    path.write_text("kind: lora\nmodel: qwen2.5-0.5b\ntrain: {sequence: 64, steps: 1}\ndata: {lengths: 64}\n")
    scenario = load_job_file(path, catalog=Catalog.load()).scenario
    with Client.connect(home) as client:
        plans = client.plan(scenario).plans
        assert plans
        with pytest.raises(SpecError, match="only known by its sizes"):
            client.submit(scenario, plans)
