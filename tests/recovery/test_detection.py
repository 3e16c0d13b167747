"""Real workers that hang, hold the others back, or fail because of each other."""

from __future__ import annotations

import os
import signal
import time

import pytest

from mofang.domain.events import EventKind
from mofang.domain.scenario import RestartPolicy

pytestmark = pytest.mark.serial

# Ranks that wait for each other at every step, as those of a data-parallel job do; what is after the dots goes wrong.
STEPS = """
import os, threading, time
from mofang.recovery.heartbeat import SYNC, read_heartbeat
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.worker import Worker

worker = Worker.from_environment()
directory = AttemptDir(worker.attempt_dir)

def others():
    for rank in range(worker.world_size):
        beat = read_heartbeat(directory.heartbeat(rank, worker.generation))
        yield beat is not None and (beat.step >= step or (beat.step, beat.phase) == (step - 1, SYNC))

def deadlock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

busy = 0.02
step = 0
while step < STEPS:
    step += 1
    WRONG
    started = time.perf_counter()
    time.sleep(busy)
    worker.heartbeat(step - 1, SYNC, time.perf_counter() - started)
    while not all(others()):
        time.sleep(0.002)
    worker.heartbeat(step, "train", time.perf_counter() - started)
"""


def _program(steps: int, wrong: str) -> str:
    return STEPS.replace("STEPS", str(steps)).replace("WRONG", wrong)


def test_the_rank_that_hangs_is_named_after_seconds_with_what_it_was_seen_to_do(attempt, wait_until):
    wrong = "if (worker.generation, worker.rank, step) == (2, 0, 50): deadlock()"
    job = attempt(_program(160, wrong), workers=2, restart=RestartPolicy(hang_timeout_s=60.0)).launch()
    pid = job.worker_pid(generation=1, rank=1)
    time.sleep(3.0)
    os.kill(pid, signal.SIGSTOP)
    (first,) = wait_until(lambda: job.events(EventKind.HANG_DETECTED), 15.0)
    assert first.data["rank"] == 1
    assert first.data["evidence"] == "stopped by a signal"
    assert 5.0 <= first.data["silent_s"] < 8.0  # 5.3 s on a quiet machine: the floor and two looks
    assert job.outcome(90.0)["reason"] == "completed"
    _, second = job.events(EventKind.HANG_DETECTED)
    assert (second.data["rank"], second.data["step"]) == (0, 49)
    assert second.data["evidence"].startswith("in deadlock (<string>:")
    ended = [event.data["reason"] for event in job.events(EventKind.GENERATION_ENDED)]
    assert ended == ["hang", "hang", "completed"]


def test_another_phase_may_take_as_long_as_the_job_allows(attempt):
    wrong = "if step == 60:\n        worker.heartbeat(step - 1, 'save')\n        time.sleep(7.0)"
    job = attempt(_program(80, wrong), workers=2).launch()
    assert job.outcome(90.0)["reason"] == "completed"
    assert not job.events(EventKind.HANG_DETECTED)


def test_a_slow_rank_is_reported_once_and_training_goes_on(attempt, wait_until):
    wrong = "busy = 0.2 if worker.rank == 1 else 0.05"
    job = attempt(_program(68, wrong), workers=3).launch()
    (found,) = wait_until(lambda: job.events(EventKind.STRAGGLER_DETECTED), 25.0)
    assert (found.data["rank"], found.data["node"]) == (1, "n0")
    assert 2.0 < found.data["ratio"] < 5.0
    assert job.outcome(90.0)["reason"] == "completed"
    assert len(job.events(EventKind.STRAGGLER_DETECTED)) == 1


def test_what_came_of_another_ranks_error_is_not_taken_for_the_cause(attempt):
    program = """
import os, sys, time, traceback
if os.environ["MOFANG_GENERATION"] == "2":
    sys.exit(0)
if os.environ["RANK"] == "1":
    try:
        raise ValueError("bad batch")
    except ValueError:
        traceback.print_exc()
    time.sleep(30)  # on its way out
time.sleep(0.5)
raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:598] Connection closed by peer [127.0.0.1]:1")
"""
    started = time.monotonic()
    job = attempt(program, workers=2).launch()
    assert job.outcome()["reason"] == "completed"
    assert time.monotonic() - started < 10.0
    ended = job.events(EventKind.GENERATION_ENDED)[0].data
    assert (ended["reason"], ended["message"]) == ("worker-failed", "rank 1 failed: ValueError: bad batch")


def test_an_error_of_a_collective_alone_is_told_as_one(attempt):
    program = """
import os, sys
if os.environ["MOFANG_GENERATION"] == "2":
    sys.exit(0)
raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:598] Connection closed by peer [127.0.0.1]:1")
"""
    job = attempt(program).launch()
    assert job.outcome()["reason"] == "completed"
    assert job.events(EventKind.GENERATION_ENDED)[0].data["reason"] == "collective-error"


def test_a_loss_that_is_no_number_is_not_tried_again(attempt):
    program = "import sys; sys.stderr.write('NotFiniteError: the loss of step 3 is nan\\n'); sys.exit(1)"
    job = attempt(program).launch()
    outcome = job.outcome()
    assert outcome["reason"] == "not-finite"
    assert len(job.events(EventKind.GENERATION_STARTED)) == 1


def test_memory_of_the_device_that_runs_out_three_times_ends_it_by_name(attempt):
    line = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    job = attempt(f"import sys; sys.stderr.write({line!r} + chr(10)); sys.exit(1)").launch()
    outcome = job.outcome()
    assert outcome["reason"] == "device-memory"
    assert "3 times" in outcome["message"]
