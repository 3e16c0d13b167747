"""The line that a worker rewrites at every step."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.recovery.heartbeat import WIDTH, Heartbeat, format_heartbeat, parse_heartbeat, read_heartbeat
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.worker import Worker

PHASES = ("data", "build", "load", "train", "sync", "validate", "save", "export")


@settings(deadline=None, max_examples=50)
@given(
    step=st.integers(0, 2**62),
    phase=st.sampled_from(PHASES),
    busy=st.none() | st.floats(1e-6, 1e6),
)
def test_what_is_written_is_read(step, phase, busy):
    line = format_heartbeat(step, phase, busy)
    assert len(line) == WIDTH
    beat = parse_heartbeat(line)
    assert beat is not None
    assert (beat.step, beat.phase) == (step, phase)
    assert (beat.busy_s is None) == (busy is None)
    assert busy is None or abs(beat.busy_s - busy) <= 1e-5 * busy


def test_a_long_word_for_a_phase_is_cut_and_a_time_that_is_no_number_left_out():
    assert len(format_heartbeat(1, "a-very-long-word-for-a-phase", float("nan"))) == WIDTH
    beat = parse_heartbeat(format_heartbeat(1, "train", float("nan")))
    assert beat == Heartbeat(step=1)


def test_a_step_alone_is_a_heartbeat_and_rubbish_is_none(tmp_path):
    path = tmp_path / "beat"
    assert read_heartbeat(path) is None
    path.write_bytes(b"12                 \n")
    assert read_heartbeat(path) == Heartbeat(step=12, phase="train")
    for rubbish in (b"", b"\0" * 64, b"train 3"):
        path.write_bytes(rubbish)
        assert read_heartbeat(path) is None


def test_training_and_waiting_in_a_step_are_both_training():
    assert [Heartbeat(step=1, phase=phase).trains for phase in ("train", "sync", "save")] == [True, True, False]


def test_a_heartbeat_costs_microseconds(tmp_path):
    directory = AttemptDir(tmp_path / "attempt-0001")
    directory.prepare()
    worker = Worker.from_environment({"MOFANG_JOB": "j", "MOFANG_ATTEMPT_DIR": str(directory.path)})
    worker.heartbeat(0)
    best = min(_seconds(worker) for _ in range(20))
    assert best < 20e-6


def _seconds(worker: Worker, calls: int = 200) -> float:
    start = time.perf_counter()
    for step in range(calls):
        worker.heartbeat(step, "train", 0.125)
    return (time.perf_counter() - start) / calls
