from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mofang.control.keeper import _MOST_RESTARTS
from mofang.control.verdict import MOST_RETRIES
from mofang.domain.hardware import NodeState
from mofang.domain.job import JobState
from mofang.domain.reasons import Reason
from mofang.errors import NotLeaderError
from mofang.recovery.rundir import AttemptDir
from mofang.store import events, measurements
from mofang.store.leadership import Holder
from mofang.testing import Script, a_node, a_plan, a_scenario


def test_a_job_runs_and_succeeds(world: Any) -> None:
    job_id = world.submit(a_plan(devices=2, steps=10))
    world.backend.default = Script(seconds=5.0, steps=10)
    assert world.until_final(job_id) == [JobState.SUCCEEDED]
    story = world.story(job_id)
    assert story[:3] == ["submitted", "attempt-started", "generation-started"]
    assert story[-3:] == ["outcome", "attempt-ended", "job-ended"]
    assert story.count("step") == 10
    row = world.row(job_id)
    assert (row["devices"], row["step"], row["steps"], row["loss"]) == ("cpu:2", 10, 10, 0.5)
    assert row["started_at"] < row["ended_at"]
    assert world.loop.num_live == 0


def test_what_a_job_measured_is_kept(world: Any) -> None:
    job_id = world.submit(a_plan(steps=10))
    world.backend.default = Script(seconds=5.0, steps=10)
    world.until_final(job_id)
    (row,) = world.store.read(measurements.rows)
    assert (row["job_id"], row["steps"], row["measured_step_s"]) == (job_id, 10, 0.5)
    assert row["predicted_step_s"] is None


def test_jobs_share_the_devices_and_wait_for_them_with_a_reason(world: Any) -> None:
    world.backend.default = Script(seconds=5.0)
    first, second, third = (world.submit(a_plan(devices=2)) for _ in range(3))
    world.turn()
    assert [world.job(each).state.value for each in (first, second, third)] == ["running", "running", "waiting"]
    assert world.job(third).reason is Reason.WAITING_FOR_DEVICES
    assert world.loop.queue.waits[third].position == 1
    held = [run.spec.nodes[0].device_indices for run in world.backend.running()]
    assert sorted(index for indices in held for index in indices) == [0, 1, 2, 3]
    assert world.until_final(first, second, third) == [JobState.SUCCEEDED] * 3
    assert world.story(third)[:3] == ["submitted", "waiting", "attempt-started"]


@pytest.mark.parametrize("reason", [Reason.WORKER_FAILED, Reason.REPEATED_FAILURE, Reason.HANG, Reason.BAD_DATA])
def test_a_fault_of_the_job_itself_ends_it(world: Any, reason: Reason) -> None:
    job_id = world.submit()
    world.backend.scripts[job_id] = [Script(reason=reason, message="exit code 3")]
    assert world.until_final(job_id) == [JobState.FAILED]
    job = world.job(job_id)
    assert (job.reason, job.message) == (reason, "exit code 3")
    assert job.attempt.number == 1


def test_a_lost_node_is_followed_by_another_attempt_after_a_pause(world: Any) -> None:
    job_id = world.submit()
    world.backend.scripts[job_id] = [Script(reason=Reason.NODE_LOST, message="node-0 is silent"), Script()]
    assert world.until_final(job_id) == [JobState.SUCCEEDED]
    job = world.job(job_id)
    assert (job.attempt.number, job.attempt.fence) == (2, 2)
    (wait,) = world.facts(job_id, "waiting")
    assert wait == {"reason": "backoff", "message": "node-0 is silent; goes on in 1 s"}
    started = [row["time"] for row in world.store.read(events.after, job_id, 0, 100, ["attempt-started"])]
    assert started[1] - started[0] >= 2.0


def test_attempts_that_are_lost_without_a_step_are_not_repeated_for_ever(world: Any) -> None:
    world.backend.default = Script(reason=Reason.AGENT_LOST, message="gone")
    job_id = world.submit()
    assert world.until_final(job_id) == [JobState.FAILED]
    assert world.job(job_id).attempt.number == MOST_RETRIES + 1
    assert "6 attempts were lost" in world.job(job_id).message


def test_attempts_that_make_steps_may_be_lost_more_often(world: Any) -> None:
    lost = Script(seconds=2.0, steps=3, reason=Reason.NODE_LOST)
    job_id = world.submit(a_plan(steps=100))
    world.backend.scripts[job_id] = [replace(lost, steps=3 + turn) for turn in range(MOST_RETRIES + 3)]
    assert world.until_final(job_id) == [JobState.SUCCEEDED]
    assert world.job(job_id).attempt.number == MOST_RETRIES + 4


def test_a_waiting_job_is_stopped_at_once(world: Any) -> None:
    job_id = world.submit(a_plan(devices=8))
    world.turn()
    assert world.stop(job_id) is JobState.STOPPED
    world.turn()
    assert world.loop.num_live == 0
    assert world.backend.runs == {}


def test_a_running_job_is_stopped_and_its_devices_are_free(world: Any) -> None:
    world.backend.default = Script(seconds=1e9)
    job_id = world.submit(a_plan(devices=4))
    for _ in range(3):
        world.turn()
    assert world.stop(job_id) is JobState.STOPPING
    assert world.until_final(job_id) == [JobState.STOPPED]
    assert world.job(job_id).reason is Reason.STOPPED_BY_USER
    world.backend.default = Script()
    assert world.until_final(world.submit(a_plan(devices=4))) == [JobState.SUCCEEDED]


def test_a_stop_before_the_launch_starts_nothing(world: Any) -> None:
    world.backend.faults["launch"] = 1
    job_id = world.submit()
    world.turn()
    world.stop(job_id)
    assert world.until_final(job_id) == [JobState.STOPPED]
    assert world.backend.running() == []


def test_a_job_that_ends_while_it_is_stopped_has_succeeded(world: Any) -> None:
    job_id = world.submit()
    world.turn()
    world.stop(job_id, to_loop=False)
    assert world.until_final(job_id) == [JobState.SUCCEEDED]


def test_a_dead_agent_is_started_again(world: Any) -> None:
    world.backend.default = Script(seconds=10.0)
    job_id = world.submit()
    for _ in range(4):
        world.turn()
    world.backend.kill_agent(f"{job_id}.1")
    assert world.until_final(job_id) == [JobState.SUCCEEDED]
    assert world.facts(job_id, "agent-restarted") == [{"node": "node-0"}]
    assert len(world.backend.runs) == 1


def test_an_agent_that_dies_again_and_again_ends_the_attempt(world: Any) -> None:
    world.backend.default = Script(seconds=1e9)
    job_id = world.submit()
    world.turn()
    for _ in range(20 * _MOST_RESTARTS):
        world.backend.kill_agent(f"{job_id}.1")
        world.turn()
        if world.job(job_id).attempt.ended_at is not None:
            break
    assert world.job(job_id).attempt.reason is Reason.AGENT_LOST
    assert len(world.facts(job_id, "agent-restarted")) == _MOST_RESTARTS
    assert not [run for run in world.backend.running() if run.spec.attempt == 1]


def test_a_launch_that_fails_once_is_repeated(world: Any) -> None:
    world.backend.faults["launch"] = 2
    job_id = world.submit()
    assert world.until_final(job_id) == [JobState.SUCCEEDED]
    assert world.job(job_id).attempt.number == 1


def test_a_launch_that_never_works_ends_the_job_with_the_reason(world: Any) -> None:
    world.backend.faults["launch"] = 10_000
    job_id = world.submit()
    assert world.until_final(job_id, turns=1000) == [JobState.FAILED]
    assert world.job(job_id).reason is Reason.LAUNCH
    assert "scripted fault of launch" in world.job(job_id).message


def test_a_node_that_cannot_be_reached_for_long_is_lost(world: Any) -> None:
    world.backend.default = Script(seconds=1e9)
    job_id = world.submit()
    for _ in range(4):
        world.turn()
    world.backend.faults["observe"] = 8
    for _ in range(400):
        world.turn()
        if world.job(job_id).attempt.ended_at is not None:
            break
    assert world.job(job_id).attempt.reason is Reason.NODE_LOST
    assert [run.spec.attempt for run in world.backend.running()] == []


def test_a_plan_that_cannot_be_launched_ends_its_job_and_no_other(world: Any) -> None:
    build = world.loop.queue.build

    def broken(**parts: Any) -> Any:
        if parts["job"].name == "bad":
            raise ZeroDivisionError("no workers")
        return build(**parts)

    world.loop.queue.build = broken
    bad, good = world.submit(scenario=a_scenario("bad")), world.submit()
    assert world.until_final(bad, good) == [JobState.FAILED, JobState.SUCCEEDED]
    assert world.job(bad).reason is Reason.LAUNCH
    assert world.loop.num_live == 0


def test_an_outcome_that_reached_only_its_file_counts(world: Any) -> None:
    job_id = world.submit()
    world.backend.default = Script(seconds=1e9)
    world.turn()
    run = world.backend.runs[f"{job_id}.1"]
    AttemptDir(world.home / "runs" / job_id / "attempt-0001").outcome.write_text(
        '{"reason": "disk-full", "message": "x"}'
    )
    run.ended_at, run.outcome = world.clock.now(), Reason.DISK_FULL
    assert world.until_final(job_id) == [JobState.FAILED]
    assert world.job(job_id).reason is Reason.DISK_FULL


def test_an_attempt_whose_host_was_reset_goes_on(world: Any) -> None:
    world.backend.default = Script(seconds=4.0)
    job_id = world.submit()
    world.turn()
    world.backend.runs.clear()
    assert world.until_final(job_id) == [JobState.SUCCEEDED]
    assert world.job(job_id).attempt.number == 1


def test_no_job_starts_on_a_node_that_is_down(make_world: Callable[..., Any]) -> None:
    world = make_world(replace(a_node(), state=NodeState.DOWN))
    job_id = world.submit()
    world.turn()
    assert world.job(job_id).reason is Reason.NODE_DOWN
    world.backend.fleet = (a_node(),)
    assert world.until_final(job_id) == [JobState.SUCCEEDED]


def test_a_backend_that_cannot_be_asked_counts_as_down(world: Any) -> None:
    world.turn()
    world.backend.faults["nodes"] = 1
    world.turn(10.0)
    assert {node.state for node in world.loop.fleet.nodes} == {NodeState.DOWN}
    world.turn(10.0)
    assert {node.state for node in world.loop.fleet.nodes} == {NodeState.UP}


def test_torn_and_foreign_lines_of_a_spool_are_skipped(world: Any) -> None:
    world.backend.default = Script(seconds=4.0, steps=4)
    job_id = world.submit(a_plan(steps=4))
    for _ in range(3):
        world.turn()
    spool = AttemptDir(world.home / "runs" / job_id / "attempt-0001").spool(1, 1)
    spool.write_text('not json\n{"kind": "no-such-kind"}\n{"job_id": "torn", "att')
    assert world.until_final(job_id) == [JobState.SUCCEEDED]
    assert world.story(job_id).count("step") == 4


def test_what_no_agent_would_write_does_not_stop_the_loop(world: Any) -> None:
    world.backend.default = Script(seconds=4.0, steps=4)
    job_id = world.submit(a_plan(steps=4))
    for _ in range(3):
        world.turn()
    base = '{"job_id": "x", "attempt": 1, "generation": 1, "source": "r0000", "kind": "step", '
    spool = AttemptDir(world.home / "runs" / job_id / "attempt-0001").spool(0, 9)
    odd = ('"sequence": 1, "time": 1, "data": [1]}', '"sequence": 1, "time": NaN, "data": {}}')
    huge = (
        '"sequence": 99999999999999999999, "time": 1, "data": {}}',
        '"sequence": 900, "time": 1, "data": {"step": 1e9}}',
    )
    spool.write_text("".join(f"{base}{rest}\n" for rest in (*odd, *huge)))
    assert world.until_final(job_id) == [JobState.SUCCEEDED]
    assert world.story(job_id).count("step") == 5
    assert world.row(job_id)["step"] == 4


def test_a_job_in_words_of_another_version_ends_and_the_others_go_on(world: Any) -> None:
    odd, good = world.submit(to_loop=False), world.submit(to_loop=False)
    with world.store._writes.begin() as connection:
        connection.exec_driver_sql("UPDATE jobs SET scenario = '{}' WHERE id = ?", (odd,))
    world.start()
    assert world.until_final(good) == [JobState.SUCCEEDED]
    row = world.row(odd)
    assert (row["state"], row["reason"]) == ("failed", "launch")
    assert "cannot be understood" in row["message"]


def test_a_controller_that_lost_leadership_stops_writing(world: Any) -> None:
    me = Holder(host="h", boot="b", pid=1, start_ticks=1)
    world.store.lead(me, 0.0, 1.0, lambda holder: True)
    world.submit()
    with world.store._writes.begin() as connection:
        connection.exec_driver_sql("UPDATE leadership SET fence = 99")
    with pytest.raises(NotLeaderError):
        world.turn()
    assert world.backend.runs == {}


def test_the_loop_says_when_it_wants_to_turn_again(world: Any) -> None:
    world.turn()
    assert 0 < world.loop.turn() <= 5.0  # nothing but the fleet to look at
    world.backend.default = Script(seconds=1e9)
    world.submit()
    world.turn()
    assert world.loop.turn() <= 0.21


def test_secrets_of_jobs_that_have_ended_are_swept(world: Any) -> None:
    folder = world.home / "secrets"
    folder.mkdir()
    live = world.submit(a_plan(devices=8))
    for name in (live, "gone"):
        (folder / f"{name}.json").write_text("{}")
    world.start()
    assert [path.stem for path in folder.iterdir()] == [live]
    world.stop(live)
    world.turn()
    assert list(folder.iterdir()) == []
