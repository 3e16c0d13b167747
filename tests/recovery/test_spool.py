"""The spool: what was written is read once and in order, whatever a crash or a full disk did."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mofang.clock import ManualClock
from mofang.domain.events import EventKind
from mofang.recovery.spool import SpoolWriter, read_spool


def _writer(path: Path) -> SpoolWriter:
    return SpoolWriter(path, job_id="j", attempt=2, source="r0000", clock=ManualClock(12.5))


def test_what_is_appended_is_read(tmp_path):
    path = tmp_path / "spool"
    writer = _writer(path)
    assert writer.append(EventKind.STEP, 3, {"step": 1, "loss": 5.5, "text": "Grüße\n"})
    (event,) = read_spool(path).events
    assert (event.job_id, event.attempt, event.generation, event.source, event.sequence) == ("j", 2, 3, "r0000", 1)
    assert (event.time, event.kind) == (12.5, EventKind.STEP)
    assert event.data == {"step": 1, "loss": 5.5, "text": "Grüße\n"}


def test_missing_spool_is_empty(tmp_path):
    page = read_spool(tmp_path / "none")
    assert (page.events, page.offset) == ((), 0)


def test_what_json_cannot_hold_becomes_null_or_plain(tmp_path):
    class Scalar:
        def item(self) -> float:
            return 0.5

    path = tmp_path / "spool"
    _writer(path).append(EventKind.STEP, 1, {"loss": math.nan, "lr": Scalar(), "norms": (1, math.inf)})
    assert read_spool(path).events[0].data == {"loss": None, "lr": 0.5, "norms": [1, None]}


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), more=st.integers(1, 3))
def test_torn_line_is_skipped_and_the_next_writer_starts_afresh(tmp_path, cut, more):
    path = tmp_path / "spool"
    path.unlink(missing_ok=True)
    first = _writer(path)
    for step in range(3):
        first.append(EventKind.STEP, 1, {"step": step})
    first.close()
    whole = path.read_bytes()
    kept = whole[: max(0, len(whole) - cut)]
    path.write_bytes(kept)
    complete = read_spool(path)
    assert complete.offset == kept.rfind(b"\n") + 1
    second = _writer(path)
    for step in range(more):
        second.append(EventKind.STEP, 1, {"step": 10 + step})
    second.close()
    events = read_spool(path).events
    assert len({event.sequence for event in events}) == len(events)
    assert [event.data["step"] for event in events if event.data["step"] >= 10] == [10 + step for step in range(more)]
    assert complete.events == events[: len(complete.events)]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=20), page=st.integers(1, 500))
def test_reading_in_pages_gives_every_event_once(tmp_path, sizes, page):
    path = tmp_path / "spool"
    path.unlink(missing_ok=True)
    writer = _writer(path)
    for size in sizes:
        writer.append(EventKind.SAMPLE, 1, {"text": "x" * size})
    writer.close()
    sequences, offset = [], 0
    while True:
        got = read_spool(path, offset, max_bytes=page)
        if got.offset == offset:
            break
        sequences += [event.sequence for event in got.events]
        offset = got.offset
    assert sequences == list(range(1, len(sizes) + 1))


def test_lines_that_are_no_events_are_skipped(tmp_path):
    path = tmp_path / "spool"
    writer = _writer(path)
    writer.append(EventKind.STEP, 1, {})
    with path.open("a") as file:
        file.write('{"kind": "of a newer version"}\n[]\nnot json\n')
    writer.append(EventKind.STEP, 1, {})
    assert [event.sequence for event in read_spool(path).events] == [1, 2]


FULL_DISK = """
import sys
from pathlib import Path
from mofang.clock import SystemClock
from mofang.domain.events import EventKind
from mofang.recovery.spool import SpoolWriter, read_spool

folder = Path(sys.argv[1])
path = folder / "spool"
writer = SpoolWriter(path, job_id="j", attempt=1, source="r0000", clock=SystemClock())
results = [writer.append(EventKind.SAMPLE, 1, {"text": "x" * 1000}) for _ in range(100)]
assert results[0] and not results[-1], results
room = MAKE_ROOM
assert writer.append(EventKind.SAMPLE, 1, {"text": "the last"})
events = read_spool(path).events
assert [event.sequence for event in events] == list(range(1, 102)), [event.sequence for event in events]
print("ok")
"""


def _run_full(program: str, folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def test_full_disk_delays_events_and_loses_none(tmp_path):
    """A tiny tmpfs where one can be mounted; else a limit on the size of files does the same."""
    mounted = os.geteuid() == 0 and (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False).returncode == 0
    )
    try:
        if mounted:
            (tmp_path / "ballast").write_bytes(b"x" * 32768)
            answer = _run_full(
                FULL_DISK.replace(
                    "MAKE_ROOM",
                    "((folder / 'ballast').unlink(), "
                    "__import__('subprocess').run(['mount', '-o', 'remount,size=1m', str(folder)], check=True))",
                ),
                tmp_path,
            )
        else:
            limit = "__import__('resource').setrlimit(__import__('resource').RLIMIT_FSIZE, (SIZE, 1 << 30))"
            program = limit.replace("SIZE", "40000") + FULL_DISK.replace("MAKE_ROOM", limit.replace("SIZE", "1 << 30"))
            answer = _run_full(program, tmp_path)
        assert answer.stdout == "ok\n", answer.stderr
    finally:
        if mounted:
            subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_line_is_one_json_object(tmp_path):
    path = tmp_path / "spool"
    _writer(path).append(EventKind.OUTCOME, 1, {"reason": "completed"})
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["kind"] == "outcome"
