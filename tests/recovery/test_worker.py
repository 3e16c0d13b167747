"""What a worker imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mofang.clock import ManualClock
from mofang.domain.events import EventKind
from mofang.recovery.heartbeat import Heartbeat, read_heartbeat
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.spool import read_spool
from mofang.recovery.worker import Worker


def _environment(path: Path) -> dict[str, str]:
    AttemptDir(path).prepare()
    return {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "MOFANG_JOB": "j",
        "MOFANG_ATTEMPT": "1",
        "MOFANG_GENERATION": "2",
        "MOFANG_ATTEMPT_DIR": str(path),
        "MOFANG_CHECKPOINT_DIR": str(path.parent / "checkpoints"),
        "MOFANG_DATA_DIR": "/data",
    }


def test_worker_knows_who_it_is(tmp_path):
    worker = Worker.from_environment(_environment(tmp_path / "attempt-0001"))
    assert (worker.rank, worker.world_size, worker.local_rank, worker.generation) == (3, 4, 1, 2)
    assert worker.attempt_dir == tmp_path / "attempt-0001"
    assert worker.checkpoint_dir == tmp_path / "checkpoints"
    assert worker.data_dir == Path("/data")


def test_events_and_heartbeat_land_in_the_attempts_directory(tmp_path):
    directory = AttemptDir(tmp_path / "attempt-0001")
    worker = Worker.from_environment(_environment(directory.path), ManualClock(7.0))
    for step in (9, 10, 8):
        worker.heartbeat(step)
        assert read_heartbeat(directory.heartbeat(3, 2)) == Heartbeat(step=step)
    before = directory.heartbeat(3, 2).stat().st_mtime_ns
    os.utime(directory.heartbeat(3, 2), ns=(0, 0))
    worker.heartbeat(8)
    assert directory.heartbeat(3, 2).stat().st_mtime_ns >= before
    worker.emit(EventKind.STEP, step=8, loss=1.5)
    (event,) = read_spool(directory.spool(3, 2)).events
    assert (event.source, event.generation, event.sequence, event.time) == ("r0003", 2, 1, 7.0)
    assert event.data == {"step": 8, "loss": 1.5}


def test_outside_mofang_nothing_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worker = Worker.from_environment({})
    worker.heartbeat(1)
    worker.emit(EventKind.STEP, step=1)
    assert (worker.rank, worker.world_size, worker.attempt_dir, worker.checkpoint_dir) == (0, 1, None, None)
    assert list(tmp_path.iterdir()) == []


def test_vanished_directory_stops_nobody(tmp_path):
    environment = _environment(tmp_path / "attempt-0001")
    environment["MOFANG_ATTEMPT_DIR"] = str(tmp_path / "gone")
    worker = Worker.from_environment(environment)
    worker.heartbeat(1)
    worker.emit(EventKind.STEP, step=1)


def test_importing_is_light():
    program = "import sys, mofang.recovery.worker; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_agent_is_light_too():
    program = (
        "import sys, mofang.recovery.agent.start; print(sorted({'torch', 'pydantic', 'psutil'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert answer.stdout.strip() == "[]"
