"""Under agents: each of several nodes has a server, which outlives the generations and dies with the attempt."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mofang.domain.events import EventKind
from mofang.recovery.processes import find, marked
from mofang.recovery.replica.config import read_address
from mofang.recovery.spool import read_spool

pytestmark = pytest.mark.serial

SHM = Path("/dev/shm")

# The first generation of rank 0 commits and dies; the second of rank 1 ends when it finds the copy on its node.
PROGRAM = """
import os, sys, time, xxhash
from pathlib import Path
from mofang.recovery.snapshot.arena import Arena, Record
rank, prefix, generation = os.environ["RANK"], os.environ["MOFANG_SHM_PREFIX"], int(os.environ["MOFANG_GENERATION"])
if rank == "0" and generation == 1:
    arena = Arena.create(Path("/dev/shm", prefix + "snapshot.r0000"), 1000)
    arena.slot(0)[:1000] = b"x" * 1000
    arena.commit(0, Record(step=7, fence=1, length=1000, sum=xxhash.xxh3_64_intdigest(b"x" * 1000)))
while True:
    replica = Arena.open(Path("/dev/shm", prefix.replace("n00", "n01") + "replica.r0000"))
    if replica is not None and replica.records():
        break
    time.sleep(0.01)
if generation == 1:
    time.sleep(60)
print(replica.verify(0).step)
"""


def servers(job):
    """The living servers of the attempt."""
    processes = marked(job.spec.marker)
    return {
        process.pid
        for process in processes
        if b"mofang.recovery.replica" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    }


def arenas(job):
    return sorted(path.name for path in SHM.glob(f"mofang.{job.spec.marker}.*"))


def test_copies_outlive_the_generation_and_nothing_outlives_the_attempt(attempt, wait_until):
    job = attempt(PROGRAM, nodes=2).launch()
    wait_until(lambda: any("n01.replica.r0000" in name for name in arenas(job)))
    (event,) = wait_until(lambda: read_spool(job.directory.path / "spool" / "replica-01.jsonl").events)
    assert (event.kind, event.source) == (EventKind.REPLICATED, "replica-01")
    assert {name: event.data[name] for name in ("node", "of", "step", "bytes")} == {
        "node": 1,
        "of": 0,
        "step": 7,
        "bytes": 1000,
    }
    before = servers(job)
    assert len(before) == 2
    os.kill(job.worker_pid(1, 0), signal.SIGKILL)
    job.worker_pid(2, 0)
    assert servers(job) == before
    assert job.outcome()["reason"] == "completed"
    assert job.log(1, 2) == "7\n"
    wait_until(lambda: not arenas(job) and not servers(job))


def test_a_server_that_dies_is_started_again_and_says_where(attempt, wait_until):
    job = attempt("import time; time.sleep(60)", nodes=2).launch()
    path = job.directory.replica(1)
    first = wait_until(lambda: read_address(path))
    (second,) = wait_until(lambda: [pid for pid in servers(job) if os.getsid(pid) == pid][1:])
    os.kill(second, signal.SIGKILL)
    wait_until(lambda: len(servers(job)) == 2 and second not in servers(job))
    assert wait_until(lambda: read_address(path)) is not None
    assert first is not None
    job.backend.stop(job.spec)
    job.outcome()
    wait_until(lambda: not servers(job))


def test_a_server_does_not_outlive_its_agent_and_the_next_agent_starts_one(attempt, wait_until):
    job = attempt("import time; time.sleep(60)", nodes=2).launch()
    wait_until(lambda: len(servers(job)) == 2)
    before = {pid: find(pid) for pid in servers(job)}
    job.kill_agent(1)
    wait_until(lambda: len(servers(job)) == 1)
    job.launch()
    wait_until(lambda: len(servers(job)) == 2)
    assert len(before.keys() & servers(job)) == 1


def test_one_node_has_no_server(attempt):
    job = attempt("print('done')").launch()
    assert job.outcome()["reason"] == "completed"
    assert not job.directory.replica(0).exists()
