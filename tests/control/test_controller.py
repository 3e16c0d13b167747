"""The real controller process over its socket, with the memory twin for a backend."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mofang.client import Client
from mofang.control.address import log_path, socket_path
from mofang.domain.codec import to_data
from mofang.domain.job import JobState
from mofang.domain.rates import HostRates
from mofang.domain.scenario import Environment, Secret
from mofang.errors import InfeasibleError, MofangError, NotFoundError, UsageError
from mofang.testing import a_plan, a_scenario, until

Start = Callable[..., subprocess.Popen[str]]


def answers(home: Path) -> bool:
    try:
        with Client.connect(home, start=False):
            return True
    except MofangError:
        return False


def finished(client: Client, ref: str) -> bool:
    return client.job(ref).state.is_final


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(home: Path, *words: str, wait: bool = True) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "mofang.control", "--home", str(home), "--backend", "memory", *words]
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        started.append(process)
        if wait:
            until(lambda: answers(home) or process.poll() is not None)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of one controller that the gentle tests share."""
    folder = tmp_path_factory.mktemp("shared")
    argv = [sys.executable, "-m", "mofang.control", "--home", str(folder), "--backend", "memory"]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        until(lambda: answers(folder))
        yield folder
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    with Client.connect(home, start=False) as connected:
        yield connected


def ask(home: Path, *lines: bytes) -> list[dict[str, Any]]:
    with socket.socket(socket.AF_UNIX) as line, line.makefile("rb") as answers:
        line.connect(str(socket_path(home)))
        line.sendall(b"".join(lines))
        return [json.loads(answers.readline()) for _ in range(b"".join(lines).count(b"\n"))]


def test_a_job_from_submit_to_its_end(client: Client) -> None:
    submitted = client.submit(a_scenario("first"), [a_plan()])
    story, cursor = [], 0
    while "job-ended" not in story:
        page, cursor = client.events(submitted.job_id, after=cursor, wait_s=30)
        story += [event.kind.value for event in page]
    assert story[0] == "submitted"
    assert client.job("first").state is JobState.SUCCEEDED
    assert client.jobs()[0]["devices"] == "cpu:1"
    told = client.explain("first")
    assert [attempt["reason"] for attempt in told["attempts"]] == ["completed"]
    assert told["plans"][0]["chosen"]
    assert client.events("first", after=cursor, wait_s=30) == ([], cursor)  # at once: nothing more can come
    assert client.logs("first").end
    assert client.stop("first") == "succeeded"


def test_one_key_is_one_job(client: Client) -> None:
    first = client.submit(a_scenario(), [a_plan(cluster="none")], key="once")
    again = client.submit(a_scenario(), [a_plan(cluster="none")], key="once")
    other = client.submit(a_scenario(), [a_plan(cluster="none")], key="once", user="someone else")
    assert (first.created, again.created, other.created) == (True, False, True)
    assert first.job_id == again.job_id != other.job_id
    assert client.stop(first.job_id) == client.stop(other.job_id) == "stopped"


def test_why_a_job_waits_is_explained(client: Client) -> None:
    job_id = client.submit(a_scenario("greedy"), [a_plan(devices=64)]).job_id
    told = until(lambda: (found := client.explain(job_id))["position"] and found)
    assert told["reason"] in {"too-few-devices", "no-such-device"}
    assert told["message"]
    assert client.stop(job_id) == "stopped"


def test_what_cannot_be_submitted_is_refused(client: Client) -> None:
    with pytest.raises(InfeasibleError, match="at least one feasible plan"):
        client.submit(a_scenario(), [])
    with pytest.raises(UsageError, match="only described"):
        client.submit(a_scenario(), [a_plan(cluster="")])
    secret = Environment(secrets=(Secret(name="TOKEN", source="env", reference="T"),))
    wanting = type(a_scenario())(name="x", task=a_scenario().task, environment=secret)
    with pytest.raises(UsageError, match="secret TOKEN"):
        client.submit(wanting, [a_plan()])
    with pytest.raises(NotFoundError, match="there is no job"):
        client.job("no-such-job")


def test_secrets_are_for_the_agents_alone(client: Client, home: Path) -> None:
    secret = Environment(secrets=(Secret(name="TOKEN", source="env", reference="T"),))
    scenario = type(a_scenario())(name="secretive", task=a_scenario().task, environment=secret)
    job_id = client.submit(scenario, [a_plan(cluster="none")], secrets={"TOKEN": "hunter2-xyz"}).job_id
    path = home / "secrets" / f"{job_id}.json"
    assert json.loads(path.read_text()) == {"TOKEN": "hunter2-xyz"}
    assert path.stat().st_mode & 0o777 == 0o600
    everything = [*home.glob("mofang.db*"), log_path(home)]
    assert not any(b"hunter2-xyz" in file.read_bytes() for file in everything)
    client.stop(job_id)
    until(lambda: not path.exists())


def test_a_secret_of_a_wrong_type_is_not_quoted(home: Path) -> None:
    params = {
        "scenario": to_data(a_scenario()),
        "plans": [],
        "key": "k",
        "user": "u",
        "secrets": {"TOKEN": ["hunter2-abc"]},
    }
    request = json.dumps({"id": 1, "method": "submit", "params": params}).encode() + b"\n"
    (answer,) = ask(home, request)
    assert answer["error"]["data"]["code"] == "usage"
    assert "hunter2" not in json.dumps(answer)
    assert "hunter2" not in log_path(home).read_text()


def test_requests_that_are_none_get_an_answer_each(home: Path) -> None:
    lines = (
        b"not json\n",
        b"[1, 2]\n",
        b'{"id": 3, "method": "no_such"}\n',
        b'{"id": 4, "method": "job", "params": {}}\n',
        b'{"id": 5, "method": "events", "params": {"ref": "x", "after": "soon"}}\n',
        b'{"id": 6, "method": "submit", "params": {"scenario": 7, "plans": []}}\n',
        b'{"id": 7, "method": "_job", "params": {"ref": "x"}}\n',
        b'{"id": 8, "method": "hello"}\n',
    )
    found = {answer["id"]: answer for answer in ask(home, *lines[2:])}
    assert found[3]["error"]["code"] == -32601
    assert found[4]["error"]["code"] == found[5]["error"]["code"] == -32602
    assert found[6]["error"]["data"]["code"] == "usage"
    assert found[7]["error"]["code"] == -32601
    assert found[8]["result"]["version"]
    assert [answer["error"]["code"] for answer in ask(home, *lines[:2])] == [-32700, -32700]
    assert "Traceback" not in json.dumps(found)


def test_only_this_user_can_open_the_socket(home: Path) -> None:
    assert socket_path(home).stat().st_mode & 0o777 == 0o600


def test_rates_reach_the_nodes(client: Client) -> None:
    client.record_rates(HostRates(host="memory-0", measured_at=1.0, torch_version="2"))
    (node,) = client.fleet().nodes
    assert node.rates is not None
    assert node.rates.torch_version == "2"


def test_what_jobs_measured_can_be_asked_for(client: Client) -> None:
    job_id = client.submit(a_scenario("measured"), [a_plan(steps=4)]).job_id
    until(lambda: finished(client, job_id))
    rows = client.measurements()
    assert all(row["measured_step_s"] > 0 and json.loads(row["placement"])["num_devices"] for row in rows)
    assert {row["job_id"] for row in rows} <= {row["id"] for row in client.jobs()}


def test_what_a_plan_would_execute_is_rendered(client: Client) -> None:
    (command, *_) = client.render(a_scenario(argv=("echo", "hi")), a_plan())
    assert command.text == "echo hi"
    with pytest.raises(InfeasibleError):
        client.render(a_scenario(), a_plan(devices=64))


def test_the_loser_of_two_controllers_leaves_quietly(start: Start, home: Path) -> None:
    second = start(home, wait=False)
    assert second.wait(60) == 0
    assert second.stderr is not None
    assert "another controller leads already" in second.stderr.read()
    assert answers(home)


def test_of_many_controllers_started_together_one_leads(start: Start, tmp_path: Path) -> None:
    several = [start(tmp_path, wait=False) for _ in range(3)]
    until(lambda: answers(tmp_path))
    until(lambda: sum(process.poll() is not None for process in several) == 2)
    assert sorted(process.poll() or 0 for process in several) == [0, 0, 0]
    with Client.connect(tmp_path, start=False) as found:
        assert found.hello()["pid"] in {process.pid for process in several}


def test_a_killed_controller_loses_nothing(start: Start, tmp_path: Path) -> None:
    first = start(tmp_path)
    with Client.connect(tmp_path, start=False) as found:
        jobs = [found.submit(a_scenario(f"job-{number}"), [a_plan(devices=2)]).job_id for number in range(3)]
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert socket_path(tmp_path).exists()  # stale: the next one replaces it
    assert not answers(tmp_path)
    start(tmp_path)
    with Client.connect(tmp_path, start=False) as found:
        assert found.hello()["fence"] == 2
        until(lambda: all(finished(found, job_id) for job_id in jobs))
        assert {row["state"] for row in found.jobs()} == {"succeeded"}


def test_sigterm_leaves_cleanly(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path)
    with Client.connect(tmp_path, start=False) as found:
        found.submit(a_scenario(), [a_plan(cluster="none")])
        process.terminate()
        assert process.wait(30) == 0
    assert not socket_path(tmp_path).exists()
    raw = sqlite3.connect(tmp_path / "mofang.db")
    assert raw.execute("SELECT expires_at < ? FROM leadership", (time.time() + 1,)).fetchone() == (1,)
    raw.close()


def test_it_leaves_when_nobody_needs_it(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path, "--idle", "0.5")
    with Client.connect(tmp_path, start=False) as found:
        job_id = found.submit(a_scenario(), [a_plan()]).job_id
        until(lambda: finished(found, job_id))
        assert process.poll() is None
    assert process.wait(30) == 0


def test_shutdown_leaves_at_once(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path)
    Client(tmp_path, start=False).shutdown()
    assert process.wait(30) == 0
    Client(tmp_path, start=False).shutdown()  # nobody is there: nothing to do


def test_a_store_of_a_newer_version_is_refused(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path)
    process.terminate()
    process.wait(30)
    raw = sqlite3.connect(tmp_path / "mofang.db")
    raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.commit()
    raw.close()
    refused = start(tmp_path, wait=False)
    assert refused.wait(60) == 1
    assert refused.stderr is not None
    text = refused.stderr.read()
    assert "written by a newer Mofang" in text
    assert "Traceback" not in text
    last = json.loads(log_path(tmp_path).read_text().splitlines()[-1])
    assert last["error"]["code"] == "store"


def test_the_log_is_one_json_object_a_line(home: Path) -> None:
    lines = [json.loads(line) for line in log_path(home).read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert lines[0]["message"] == "leads"
    assert lines[0]["pid"] != os.getpid()
