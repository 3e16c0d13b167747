from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from mofang.domain.codec import encode
from mofang.domain.events import EventKind
from mofang.domain.job import Allocation, AttemptState, JobState, NodeDevices
from mofang.domain.launch import LaunchSpec, NodeLaunch
from mofang.domain.rates import HostRates
from mofang.domain.reasons import Reason
from mofang.errors import NotFoundError, UsageError
from mofang.store import Store, attempts, engine, events, jobs, measurements, tables
from mofang.store.endings import JobEnd
from mofang.store.events import Ingest
from mofang.store.jobs import NewJob, Stopping, Submission
from mofang.testing import a_plan, a_scenario

ALLOCATION = Allocation(cluster="memory", nodes=(NodeDevices(node="n", accelerator="cpu", indices=(0, 1)),))


def submission(job_id: str, *, key: str | None = None, user: str = "me", name: str = "job") -> Submission:
    scenario, plans = encode(a_scenario(name)), encode((a_plan(steps=10),))
    row = NewJob(job_id, key or job_id, user, name, "waiting", "", 0, scenario, plans, 1.0, 0, "", 10)
    return Submission(row, 1)


def starting(job_id: str, number: int = 1, fence: int = 1) -> attempts.Starting:
    node = NodeLaunch(node="n", address="", prefix=(), accelerator="cpu", device_indices=(0, 1), workers=2)
    spec = LaunchSpec(job_id=job_id, attempt=number, fence=fence, run_dir="/r", nodes=(node,), argv=("true",))
    return attempts.Starting(
        job_id=job_id,
        number=number,
        fence=fence,
        plan_index=0,
        allocation=encode(ALLOCATION),
        launch=encode(spec),
        devices="cpu:2",
        nodes=("n",),
        steps=10,
        time=2.0,
    )


def ending(job_id: str, number: int = 1, state: JobState = JobState.SUCCEEDED, **more: object) -> attempts.Ending:
    facts = {"attempt_reason": Reason.COMPLETED, "attempt_message": "", "reason": Reason.COMPLETED, "message": ""}
    return attempts.Ending(job_id=job_id, number=number, time=3.0, job_state=state, **(facts | more))  # type: ignore[arg-type]


def kinds(store: Store, job_id: str) -> list[str]:
    return [row["kind"] for row in store.read(events.after, job_id, 0, 100)]


def test_the_fields_of_a_new_job_are_in_the_order_of_the_table() -> None:
    order = [column.name for column in tables.jobs.columns if column.name in NewJob._fields]
    assert list(NewJob._fields) == order


def test_a_job_is_read_back_as_it_was_written(store: Store) -> None:
    store.write(jobs.accept, submission("aa", name="train"))
    found = store.read(jobs.load, "aa")
    assert found.job.scenario == a_scenario("train")
    assert found.job.plans == (a_plan(steps=10),)
    assert (found.job.state, found.job.attempt, found.retries) == (JobState.WAITING, None, 0)
    row = store.read(events.after, "aa", 0, 10)[0]
    assert (row["kind"], row["sequence"], json.loads(row["data"])) == ("submitted", 1, {"plans": 1})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mofang.db"
    Store(path).close()
    return path


@pytest.fixture
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PRAGMAS", (*engine.PRAGMAS, "PRAGMA synchronous = OFF"))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), max_size=6), max_size=4))
def test_one_key_of_a_user_is_one_job_however_often_and_together_it_comes(
    batches: list[list[tuple[str, str]]], template: Path, tmp_path: Path, fast_disk: None
) -> None:
    path = tmp_path / "fresh.db"
    shutil.copy(template, path)
    known: dict[tuple[str, str], str] = {}
    with Store(path) as store:
        for turn, batch in enumerate(batches):
            items = [submission(f"{turn}-{place}", user=user, key=key) for place, (user, key) in enumerate(batch)]
            answers = (
                store.write(lambda connection, packed: [jobs.accept(connection, packed[0])], items) if items else []
            )
            for item, answer in zip(items, answers, strict=True):
                pair = (item.row.user, item.row.key)
                assert answer.created == (pair not in known)
                assert answer.job_id == known.setdefault(pair, item.row.id)
        assert {row["id"] for row in store.read(jobs.rows, None, None)} == set(known.values())


def test_every_answered_submit_survives_a_kill(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_jobs import submission
from mofang.store import Store, jobs
store = Store(Path(sys.argv[1]))
for number in range(10**6):
    store.write(jobs.accept, submission(f"{number:06d}"))
    print(number, flush=True)
"""
    path = tmp_path / "mofang.db"
    words = [sys.executable, "-c", program, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while (last := int(process.stdout.readline())) < 20:
            pass
        os.kill(process.pid, signal.SIGKILL)
        last = int((process.stdout.read().split() or [last])[-1])
    with Store(path) as store:
        found = {row["id"] for row in store.read(jobs.rows, None, None)}
    assert {f"{number:06d}" for number in range(last + 1)} <= found


def test_an_attempt_starts_only_a_job_that_waits(store: Store) -> None:
    store.write(jobs.accept, submission("aa"))
    assert store.write(attempts.start, starting("aa"))
    assert not store.write(attempts.start, starting("aa", number=2, fence=2))
    job = store.read(jobs.load, "aa").job
    assert job.state is JobState.RUNNING
    assert job.attempt is not None
    assert (job.attempt.fence, job.attempt.allocation, job.attempt.state) == (1, ALLOCATION, AttemptState.STARTING)
    assert store.read(attempts.launch_of, 1).marker == "aa.1"
    assert store.read(attempts.last_fence) == 1
    store.write(attempts.mark_running, 1)
    assert store.read(jobs.load, "aa").job.attempt.state is AttemptState.RUNNING  # type: ignore[union-attr]


def test_ending_an_attempt_ends_the_job_once(store: Store) -> None:
    store.write(jobs.accept, submission("aa"))
    store.write(attempts.start, starting("aa"))
    assert store.write(attempts.end, ending("aa")) is JobState.SUCCEEDED
    assert store.write(attempts.end, ending("aa", state=JobState.FAILED)) is JobState.SUCCEEDED
    assert kinds(store, "aa") == ["submitted", "attempt-started", "attempt-ended", "job-ended"]
    assert store.read(jobs.live) == []


def test_a_lost_attempt_leaves_the_job_waiting(store: Store) -> None:
    store.write(jobs.accept, submission("aa"))
    store.write(attempts.start, starting("aa"))
    lost = {"attempt_reason": Reason.NODE_LOST, "reason": Reason.NODE_LOST, "message": "lost"}
    again = ending("aa", state=JobState.WAITING, not_before=9.0, retries=1, **lost)
    assert store.write(attempts.end, again) is JobState.WAITING
    found = store.read(jobs.load, "aa")
    assert (found.not_before, found.retries, found.job.reason) == (9.0, 1, Reason.BACKOFF)
    assert store.write(attempts.start, starting("aa", number=2, fence=2))
    assert [row["number"] for row in store.read(attempts.history, "aa")] == [1, 2]


def test_a_stop_that_comes_while_an_attempt_ends_prevents_the_next(store: Store) -> None:
    store.write(jobs.accept, submission("aa"))
    store.write(attempts.start, starting("aa"))
    stop = Stopping(job_id="aa", by="me", time=2.5)
    assert store.write(jobs.request_stop, stop) is JobState.STOPPING
    again = ending("aa", state=JobState.WAITING, not_before=9.0, attempt_reason=Reason.NODE_LOST)
    assert store.write(attempts.end, again) is JobState.STOPPED
    assert store.read(jobs.load, "aa").job.reason is Reason.STOPPED_BY_USER


def test_stopping_is_harmless_again_and_after_the_end(store: Store) -> None:
    store.write(jobs.accept, submission("aa"))
    stop = Stopping(job_id="aa", by="me", time=2.5)
    assert [store.write(jobs.request_stop, stop) for _ in range(3)] == [JobState.STOPPED] * 3
    assert kinds(store, "aa") == ["submitted", "stop-requested", "job-ended"]


def test_why_jobs_wait_is_noted_for_those_that_still_do(store: Store) -> None:
    for job_id in ("aa", "bb"):
        store.write(jobs.accept, submission(job_id))
    store.write(jobs.request_stop, Stopping(job_id="bb", by="me", time=2.0))
    for job_id in ("aa", "bb"):
        item = jobs.Waiting(job_id=job_id, time=3.0, reason=Reason.WAITING_FOR_DEVICES, message="2 in use")
        store.write(jobs.note_waiting, item)
    assert kinds(store, "aa") == ["submitted", "waiting"]
    assert kinds(store, "bb") == ["submitted", "stop-requested", "job-ended"]
    assert store.read(jobs.rows, ["waiting"], None)[0]["message"] == "2 in use"
    assert [row["sequence"] for row in store.read(events.after, "aa", 0, 10)] == [1, 2]


def test_a_waiting_job_that_cannot_start_fails(store: Store) -> None:
    store.write(jobs.accept, submission("aa"))
    end = JobEnd(job_id="aa", attempt=0, time=2.0, state=JobState.FAILED, reason=Reason.LAUNCH, message="no")
    store.write(jobs.fail, end)
    store.write(jobs.fail, end)
    assert kinds(store, "aa") == ["submitted", "job-ended"]


def event_row(sequence: int, kind: EventKind = EventKind.STEP, data: str = "{}") -> tuple[object, ...]:
    return 1, 1, "r0000", sequence, 5.0, kind.value, data, "aa"


def test_what_is_ingested_twice_is_stored_once(store: Store) -> None:
    store.write(jobs.accept, submission("aa"))
    first = Ingest(job_id="aa", rows=[event_row(1), event_row(2)], offsets={"f": 10}, progress={"step": 2, "loss": 1.5})
    overlapping = Ingest(job_id="aa", rows=[event_row(2), event_row(3)], offsets={"f": 20}, progress={"step": 3})
    for item in (first, first, overlapping):
        store.write(events.ingest, item)
    found = store.read(events.after, "aa", 0, 10, ["step"])
    assert [row["sequence"] for row in found] == [1, 2, 3]
    assert store.read(events.offsets, "aa") == {"f": 20}
    row = store.read(jobs.rows, None, None)[0]
    assert (row["step"], row["loss"], row["steps"]) == (3, 1.5, 10)


def test_events_are_paged_by_cursor_and_chosen_by_kind(store: Store) -> None:
    for job_id in ("aa", "bb"):
        store.write(jobs.accept, submission(job_id))
    rows = [event_row(number, EventKind.STEP, '{"step_time_s": 0.5}') for number in range(1, 8)]
    store.write(events.ingest, Ingest(job_id="aa", rows=rows, offsets={}, progress={}))
    seen, cursor = [], 0
    while page := store.read(events.after, "aa", cursor, 3):
        seen += page
        cursor = page[-1]["cursor"]
    assert [row["kind"] for row in seen] == ["submitted", *["step"] * 7]
    assert {row["job_id"] for row in seen} == {"aa"}
    assert store.read(events.step_times, "aa", "r0000") == [0.5] * 7
    assert store.read(events.after, "aa", 0, 10, ["validation"]) == []


def test_jobs_are_found_by_id_name_and_start_of_the_id(store: Store) -> None:
    for job_id, name in (("aa11", "train"), ("aa22", "train"), ("bb33", "other"), ("cc44", "bb33")):
        store.write(jobs.accept, submission(job_id, name=name))
    assert store.read(jobs.find, "train") == "aa22"
    assert store.read(jobs.find, "bb33") == "bb33"
    assert store.read(jobs.find, "aa1") == "aa11"
    with pytest.raises(UsageError, match="several jobs"):
        store.read(jobs.find, "aa")
    for ref in ("zz", "", "%", "aa11x"):
        with pytest.raises(NotFoundError, match="there is no job"):
            store.read(jobs.find, ref)
    with pytest.raises(NotFoundError):
        store.read(jobs.load, "zz")


def test_a_list_of_jobs_is_newest_first_and_limited(store: Store) -> None:
    for number in range(5):
        store.write(jobs.accept, submission(f"{number}"))
    assert [row["id"] for row in store.read(jobs.rows, None, 3)] == ["4", "3", "2"]
    assert store.read(jobs.rows, ["running"], None) == []
    assert [row["id"] for row in store.read(jobs.brief, ["1", "nix", "0"])] == ["1", "0"]


def test_rates_and_measurements_are_kept(store: Store) -> None:
    old = HostRates(host="a", measured_at=1.0, torch_version="1")
    new = HostRates(host="a", measured_at=2.0, torch_version="2")
    for rates in (old, new):
        store.write(measurements.record_rates, rates)
    assert store.read(measurements.all_rates) == {"a": new}
    store.write(jobs.accept, submission("aa"))
    store.write(attempts.start, starting("aa"))
    facts = {"scenario": "{}", "strategy": "{}", "placement": "{}", "nodes": "[]", "predicted_step_s": None}
    row = {"job_id": "aa", "measured_at": 3.0, "measured_step_s": 0.5, "steps": 10, **facts}
    store.write(attempts.end, ending("aa", measurement=row))
    found = store.read(measurements.rows)
    assert [(each["job_id"], each["measured_step_s"], each["steps"]) for each in found] == [("aa", 0.5, 10)]


def test_events_of_an_unknown_job_are_not_stored(store: Store) -> None:
    store.write(events.ingest, Ingest(job_id="aa", rows=[event_row(1)], offsets={}, progress={}))
    assert store.read(lambda connection: connection.execute(select(tables.events)).all()) == []
