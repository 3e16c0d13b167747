"""A classifier trained and a model served for real: controller, agent and workers, some of them killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mofang.catalog.huggingface import read_config
from mofang.client import Client
from mofang.domain.estimate import Interval, ServiceEstimate
from mofang.domain.events import EventKind
from mofang.domain.hardware import CPU, Precision
from mofang.domain.job import JobState
from mofang.domain.plan import Placement, Plan, Service
from mofang.domain.scenario import (
    Classify,
    Environment,
    ImageData,
    Lengths,
    Optimisation,
    RestartPolicy,
    Scenario,
    Secret,
    Serve,
    Traffic,
    VisionModel,
)
from mofang.domain.strategy import Strategy
from mofang.report import write_report
from mofang.spec.plan_file import plan_to_yaml
from mofang.testing import a_digit_set, a_model_folder, until

for needed in ("torch", "PIL", "transformers"):
    pytest.importorskip(needed)

pytestmark = [pytest.mark.serial, pytest.mark.timeout(400)]

PATIENCE_S = 180.0
LIVE = ["waiting", "running", "stopping"]
PLACE = Placement(cluster="local", accelerator=CPU, num_devices=1, num_nodes=1)


def told(client: Client, job_id: str, *kinds: EventKind) -> list[Any]:
    return client.events(job_id, kinds=kinds)[0]


def worker_of(client: Client, job_id: str, generation: int) -> int:
    """Return the process number of the first worker of a generation."""
    started = [
        event
        for event in told(client, job_id, EventKind.GENERATION_STARTED)
        if event.generation == generation and event.data.get("pids")
    ]
    return int(started[0].data["pids"]["0"]) if started else 0


def a_classifier(tmp_path: Path) -> tuple[Scenario, Plan]:
    path = a_digit_set(tmp_path / "digits.npz")
    task = Classify(
        model=VisionModel(name="tiny-vit", image_size=12, patch_size=3, layers=2, hidden=48, heads=4, ffn=96),
        data=ImageData(path=str(path), num_classes=10, num_images=2000, channels=1),
        global_batch=64,
        steps=300,
        optimisation=Optimisation(lr=3e-3, weight_decay=0.05),
        validate_every=100,
        checkpoint_every_steps=25,
    )
    plan = Plan(strategy=Strategy(framework="classify", micro_batch=64), placement=PLACE, steps=300)
    return Scenario(name="digits", task=task), plan


def test_mofang_run_trains_a_classifier_although_its_worker_is_killed(tmp_path: Path, home: Path) -> None:
    file = tmp_path / "digits.yaml"
    file.write_text(plan_to_yaml(*a_classifier(tmp_path)))
    words = [sys.executable, "-m", "mofang", "run", str(file), "--yes", "-o", "json"]
    environ = {**os.environ, "MOFANG_HOME": str(home)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as run:
        until((home / "controller.sock").exists)
        with Client.connect(home) as client:
            job_id = until(lambda: client.jobs(LIVE))[0]["id"]
            until(lambda: (client.jobs()[0]["step"] or 0) >= 60)
            os.kill(worker_of(client, job_id, 1), signal.SIGKILL)
            out, err = run.communicate(timeout=PATIENCE_S)
            job, events = client.job(job_id), told(client, job_id, *EventKind)
    assert run.returncode == 0, err
    outcome = json.loads(out)
    assert outcome["state"] == JobState.SUCCEEDED
    assert outcome["accuracy"] > 0.9
    [recovery] = outcome["recoveries"]
    assert recovery["loaded_step"] >= 50
    assert "worker 0 was killed by signal 9" in err
    assert re.search(r"step 300: validation loss 0\.\d+, accuracy 9\d\.\d %", err)
    output = home / "runs" / job_id / "output"
    assert {file.name for file in output.iterdir()} == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
    }
    html = write_report(job, events, tmp_path / "report").read_text()
    assert "validation accuracy" in html
    assert "train tiny-vit on 2,000 images of 10 classes" in html
    assert "images/s" in html


def a_service(tmp_path: Path, **restart: Any) -> tuple[Scenario, Plan]:
    folder = a_model_folder(tmp_path / "model")
    task = Serve(
        model=read_config(folder),
        model_path=str(folder),
        traffic=Traffic(input=Lengths(quantiles=(4, 16)), output=Lengths(quantiles=(8, 32)), concurrency=2),
        max_sequence=200,
    )
    around = Interval(low=1.0, high=100.0)
    estimate = ServiceEstimate(
        ttft_s=0.05,
        ttft_tail_s=0.1,
        tpot_s=0.01,
        tpot_tail_s=0.02,
        tokens_per_s=90.0,
        requests_per_s=4.0,
        max_requests_per_s=8.0,
        concurrency=2.0,
        kv_tokens=4000.0,
        memory_bytes=1e9,
        tokens_per_s_90=around,
        tpot_90=Interval(low=0.001, high=0.1),
        ttft_90=Interval(low=0.01, high=1.0),
    )
    service = Service(
        replicas=1, concurrency=4, precision=Precision.FP32, kv_precision=Precision.FP32, estimate=estimate
    )
    plan = Plan(strategy=Strategy(framework="serving"), placement=PLACE, steps=None, service=service)
    token = Secret(name="MOFANG_SERVICE_TOKEN", source="env", reference="ANY")
    scenario = Scenario(
        name="answers",
        task=task,
        environment=Environment(secrets=(token,)),
        restart=RestartPolicy(**restart),
    )
    return scenario, plan


def ask(url: str, token: str, **body: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def serving_url(client: Client, job_id: str, generation: int) -> str:
    """Return where a generation answers; "" before it does."""
    found = [event for event in told(client, job_id, EventKind.SERVING) if event.generation == generation]
    return str(found[0].data["url"]) if found else ""


def test_a_service_answers_rests_survives_a_kill_and_ends_when_it_is_stopped(tmp_path: Path, home: Path) -> None:
    scenario, plan = a_service(tmp_path, hang_timeout_s=3.0, same_failure=2)
    with Client.connect(home) as client:
        job_id = client.submit(scenario, (plan,), secrets={"MOFANG_SERVICE_TOKEN": "open-sesame"}).job_id
        url = str(until(lambda: told(client, job_id, EventKind.SERVING))[0].data["url"])
        assert until(lambda: client.jobs()[0]["message"]) == f"answers at {url}"
        first = ask(url, "open-sesame", prompt="to be", max_tokens=12)
        assert first["usage"] == {"prompt_tokens": 5, "completion_tokens": 12}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(url, "another", prompt="to be")

        time.sleep(5.0)  # longer than what counts as a hang: it has nothing to do
        assert not told(client, job_id, EventKind.HANG_DETECTED)
        until(lambda: told(client, job_id, EventKind.TRAFFIC))

        for generation in (1, 2):  # two failures alike, but not the same one again
            os.kill(worker_of(client, job_id, generation), signal.SIGKILL)
            assert until(lambda: serving_url(client, job_id, generation + 1)) == url  # noqa: B023 - called at once
            assert ask(url, "open-sesame", prompt="to be", max_tokens=12)["choices"] == first["choices"]
            time.sleep(1.5)

        client.stop(job_id)
        until(lambda: client.job(job_id).state.is_final)
        job, events = client.job(job_id), told(client, job_id, *EventKind)
    assert (job.state, job.attempt.number) == (JobState.STOPPED, 1)  # type: ignore[union-attr]
    assert [event.data["tokens"] for event in events if event.kind is EventKind.RESULT] == [12]
    kept = [*home.glob("mofang.db*"), *(home / "runs").rglob("*"), home / "controller.log"]
    assert not any(b"open-sesame" in file.read_bytes() for file in kept if file.is_file())

    html = write_report(job, events, tmp_path / "report").read_text()
    assert "time to first token" in html
    assert "<b>2</b><span>requests</span>" in html  # of the one that was killed soon after, nobody tells
    assert url in html


def test_a_service_that_cannot_begin_ends_with_one_clear_line(tmp_path: Path, home: Path) -> None:
    scenario, plan = a_service(tmp_path, same_failure=2)
    broken = replace(scenario, environment=Environment())
    (tmp_path / "model" / "model.safetensors").write_bytes(b"torn")
    with Client.connect(home) as client:
        job_id = client.submit(broken, (plan,)).job_id
        until(lambda: client.job(job_id).state.is_final)
        job = client.job(job_id)
    assert job.state is JobState.FAILED
    assert str(tmp_path / "model") in job.message
    assert "failed the same way 2 times" in job.message
