"""Two agents over loopback: one coordinates, both obey."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest

from mofang.domain.events import EventKind
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
