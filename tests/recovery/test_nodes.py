"""Two agents over loopback: one coordinates, both obey."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import suppress

import pytest

from mofang.domain.events import EventKind
from mofang.domain.scenario import RestartPolicy
from mofang.recovery.processes import find, marked

pytestmark = pytest.mark.serial

SLEEP = "import time; time.sleep(60)"


def test_ranks_are_numbered_over_nodes_and_all_meet_at_one_place(attempt):
    program = """
import json, os
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
print(json.dumps([os.environ[name] for name in names]))
"""
    job = attempt(program, workers=2, nodes=2).launch()
    assert job.outcome()["reason"] == "completed"
    rows = [json.loads(job.log(rank)) for rank in range(4)]
    assert [row[:5] for row in rows] == [
        ["0", "0", "4", "2", "0"],
        ["1", "1", "4", "2", "0"],
        ["2", "0", "4", "2", "1"],
        ["3", "1", "4", "2", "1"],
    ]
    assert len({tuple(row[5:]) for row in rows}) == 1
    (started,) = job.events(EventKind.GENERATION_STARTED)
    assert sorted(started.data["pids"]) == ["0", "1", "2", "3"]


def test_worker_killed_on_one_node_restarts_all_nodes(attempt):
    job = attempt(SLEEP, nodes=2).launch()
    first = [find(job.worker_pid(1, rank)) for rank in (0, 1)]
    os.kill(first[1].pid, signal.SIGKILL)
    second = [job.worker_pid(2, rank) for rank in (0, 1)]
    assert all(find(process.pid) != process for process in first)
    assert all(find(pid) for pid in second)
    (exited,) = [event for event in job.events(EventKind.WORKER_EXITED, node=1) if event.generation == 1]
    assert exited.data["signal"] == signal.SIGKILL


@pytest.mark.parametrize("node", [0, 1])
def test_agent_killed_on_either_node_comes_back_to_living_workers(attempt, wait_until, node, tmp_path):
    gate = tmp_path / "gate"
    program = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)"
    job = attempt(program, nodes=2).launch()
    workers = [find(job.worker_pid(1, rank)) for rank in (0, 1)]
    job.kill_agent(node)
    wait_until(lambda: job.backend.observe(job.spec).dead_nodes == (f"n{node}",))
    job.launch()
    assert [find(worker.pid) for worker in workers] == workers
    gate.touch()
    assert job.outcome()["reason"] == "completed"
    assert len(job.events(EventKind.GENERATION_STARTED)) == 1


def test_stop_reaches_all_nodes(attempt):
    job = attempt(SLEEP, nodes=2, grace_s=1.0).launch()
    job.worker_pid(1, 1)
    job.backend.stop(job.spec)
    assert job.outcome()["reason"] == "stopped-by-user"
    assert not marked(job.spec.marker)


def test_stranger_without_the_token_is_not_let_in(attempt, wait_until):
    job = attempt(SLEEP, nodes=2).launch()
    job.worker_pid(1, 1)
    where = json.loads(job.directory.coordinator.read_text())
    stranger = socket.create_connection((where["address"], where["port"]), timeout=10)
    with stranger, stranger.makefile("rw") as lines:
        assert "nonce" in json.loads(lines.readline())
        lines.write('{"node": 1, "proof": "guess"}\n{"type": "StopAsked", "node": 1}\n')
        lines.flush()
        assert lines.readline() == ""
    assert not job.directory.outcome.exists()
    assert job.events(EventKind.GENERATION_ENDED) == []


PLACES = """
import json, os, pathlib, time
names = ("MOFANG_NODE", "RANK", "WORLD_SIZE", "NODE_RANK")
print(json.dumps([int(os.environ[name]) for name in names]), flush=True)
while not pathlib.Path("../../gate").exists():
    time.sleep(0.02)
"""


def _lose(job, node: int) -> None:
    """Take a node away as if its power had gone: the agent, and its workers."""
    job.kill_agent(node)
    for process in marked(job.spec.marker, node):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _places(job, generation: int, ranks: int, wait_until) -> list[list[int]]:
    wait_until(lambda: all(job.log(rank, generation).endswith("]\n") for rank in range(ranks)))
    return [json.loads(job.log(rank, generation)) for rank in range(ranks)]


def test_spare_node_takes_the_place_of_a_lost_one(attempt, wait_until):
    job = attempt(PLACES, nodes=3, spares=1).launch()
    assert _places(job, 1, 2, wait_until) == [[0, 0, 2, 0], [1, 1, 2, 1]]
    _lose(job, 1)
    assert _places(job, 2, 2, wait_until) == [[0, 0, 2, 0], [2, 1, 2, 1]]
    (changed,) = job.events(EventKind.MEMBERS_CHANGED)
    assert changed.data["nodes"] == ["n0", "n2"]
    job.launch()  # the lost node's agent is back, and its node is the spare from now on
    wait_until(lambda: not job.backend.observe(job.spec).dead_nodes)
    (job.directory.path.parent.parent / "gate").touch()
    assert job.outcome()["reason"] == "completed"
    wait_until(lambda: not marked(job.spec.marker))


def test_without_a_spare_it_goes_on_with_fewer_and_grows_back(attempt, wait_until):
    job = attempt(PLACES, nodes=2, restart=RestartPolicy(min_nodes=1)).launch()
    assert _places(job, 1, 2, wait_until) == [[0, 0, 2, 0], [1, 1, 2, 1]]
    _lose(job, 1)
    assert _places(job, 2, 1, wait_until) == [[0, 0, 1, 0]]
    job.launch()
    assert _places(job, 3, 2, wait_until) == [[0, 0, 2, 0], [1, 1, 2, 1]]
    reasons = [event.data["reason"] for event in job.events(EventKind.GENERATION_ENDED)]
    assert reasons[-1] == "resized"
    messages = [event.data["message"] for event in job.events(EventKind.MEMBERS_CHANGED)]
    assert messages == ["n1 lost: 1 of 2 nodes", "n1 takes part: 2 of 2 nodes"]
    (job.directory.path.parent.parent / "gate").touch()
    assert job.outcome()["reason"] == "completed"


def test_new_agent_of_node_0_knows_who_takes_part(attempt, wait_until):
    job = attempt(PLACES, nodes=3, spares=1).launch()
    _places(job, 1, 2, wait_until)
    _lose(job, 1)
    _places(job, 2, 2, wait_until)
    workers = [find(job.worker_pid(2, rank)) for rank in (0, 1)]
    job.kill_agent(0)
    wait_until(lambda: "n0" in job.backend.observe(job.spec).dead_nodes)
    job.launch()
    wait_until(lambda: not job.backend.observe(job.spec).dead_nodes)
    (job.directory.path.parent.parent / "gate").touch()
    assert job.outcome()["reason"] == "completed"
    assert [find(worker.pid) for worker in workers] != workers
    assert [event.generation for event in job.events(EventKind.GENERATION_STARTED)] == [1, 2]


def test_four_nodes_start_at_once(attempt):
    job = attempt("pass", nodes=4).launch()
    assert job.outcome()["reason"] == "completed"
    began = job.directory.generation.stat().st_mtime
    (started,) = job.events(EventKind.GENERATION_STARTED)
    # from the order to the last node's report, workers' processes included, on a machine with other work to do
    assert started.time - began < 2.0
