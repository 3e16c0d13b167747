"""Whatever is killed whenever: every accepted job ends, none runs twice, devices are never held twice."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mofang.domain.job import JobState
from mofang.domain.reasons import Reason
from mofang.testing import Script, a_plan


def check_world(world: Any) -> None:
    """Hold the promises that must be true at every moment."""
    running = world.backend.running()
    held = Counter((part.node, index) for run in running for part in run.spec.nodes for index in part.device_indices)
    assert all(count == 1 for count in held.values()), "a device is held twice"
    assert all(count == 1 for count in Counter(run.spec.job_id for run in running).values()), "a job runs twice"
    assert len({run.spec.fence for run in world.backend.runs.values()}) == len(world.backend.runs)
    for run in world.backend.runs.values():
        later = [other for other in world.backend.runs.values() if other.spec.job_id == run.spec.job_id]
        if run.outcome is Reason.COMPLETED:
            assert run.spec.attempt == max(other.spec.attempt for other in later), "a job ran after it had succeeded"


@pytest.mark.parametrize("point", range(1, 41))
def test_a_kill_at_any_point_of_a_jobs_life_loses_nothing(world: Any, point: int) -> None:
    world.backend.default = Script(seconds=2.0, steps=4)
    world.kill_in = point
    jobs = [world.submit(a_plan(devices=3, steps=4)) for _ in range(2)]
    assert world.until_final(*jobs) == [JobState.SUCCEEDED] * 2
    check_world(world)
    assert len(world.backend.runs) == 2
    for job_id in jobs:
        story = world.story(job_id)
        assert story.count("step") == 4
        for kind in ("submitted", "attempt-started", "attempt-ended", "job-ended", "outcome"):
            assert story.count(kind) == 1, kind
    assert point > 24 or world.kills == 1  # the points really are inside


@pytest.mark.parametrize("point", range(1, 13))
def test_a_kill_while_a_job_is_stopped_loses_nothing(world: Any, point: int) -> None:
    world.backend.default = Script(seconds=1e9)
    job_id = world.submit()
    for _ in range(3):
        world.turn()
    world.kill_in = point
    world.stop(job_id)
    assert world.until_final(job_id) == [JobState.STOPPED]
    assert world.story(job_id).count("job-ended") == 1
    assert world.backend.running() == []


def test_a_job_accepted_just_before_the_kill_is_run_by_the_next_controller(world: Any) -> None:
    job_id = world.submit(to_loop=False)
    world.turn()
    assert world.job(job_id).state is JobState.WAITING
    world.start()
    assert world.until_final(job_id) == [JobState.SUCCEEDED]


def test_a_stop_accepted_just_before_the_kill_is_carried_out_by_the_next_controller(world: Any) -> None:
    world.backend.default = Script(seconds=1e9)
    job_id = world.submit()
    for _ in range(3):
        world.turn()
    world.stop(job_id, to_loop=False)
    world.start()
    assert world.until_final(job_id) == [JobState.STOPPED]


class AnyInterleaving(RuleBasedStateMachine):
    make: ClassVar[Callable[[Path], Any]]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = type(self).make(Path(self.folder.name))
        self.jobs: list[str] = []

    @initialize(seconds=st.sampled_from([0.5, 3.0]))
    def begin(self, seconds: float) -> None:
        self.world.backend.default = Script(seconds=seconds, steps=3)

    @precondition(lambda self: len(self.jobs) < 6)
    @rule(devices=st.integers(1, 4), to_loop=st.booleans(), lost=st.integers(0, 2))
    def submit(self, devices: int, to_loop: bool, lost: int) -> None:
        job_id = self.world.submit(a_plan(devices=devices, steps=3), to_loop=to_loop)
        self.world.backend.scripts[job_id] = [Script(reason=Reason.NODE_LOST)] * lost
        self.jobs.append(job_id)

    @precondition(lambda self: self.jobs)
    @rule(choice=st.integers(0, 5), to_loop=st.booleans())
    def stop(self, choice: int, to_loop: bool) -> None:
        self.world.stop(self.jobs[choice % len(self.jobs)], to_loop=to_loop)

    @rule(turns=st.integers(1, 5), seconds=st.sampled_from([0.1, 0.6, 2.0]))
    def pass_time(self, turns: int, seconds: float) -> None:
        for _ in range(turns):
            self.world.turn(seconds)

    @rule(point=st.integers(1, 12))
    def kill_controller_soon(self, point: int) -> None:
        self.world.kill_in = point

    @rule()
    def kill_controller_now(self) -> None:
        self.world.start()

    @precondition(lambda self: self.world.backend.running())
    @rule(choice=st.integers(0, 5))
    def kill_agent(self, choice: int) -> None:
        running = self.world.backend.running()
        if running:
            self.world.backend.kill_agent(running[choice % len(running)].spec.marker)

    @precondition(lambda self: self.world.backend.running())
    @rule(choice=st.integers(0, 5), reason=st.sampled_from([Reason.WORKER_FAILED, Reason.NODE_LOST]))
    def lose_attempt(self, choice: int, reason: Reason) -> None:
        running = self.world.backend.running()
        if running:
            self.world.backend.lose(running[choice % len(running)].spec.marker, reason)

    @rule(method=st.sampled_from(["launch", "observe", "clear", "stop", "nodes"]), times=st.integers(1, 2))
    def break_backend(self, method: str, times: int) -> None:
        self.world.backend.faults[method] += times

    @invariant()
    def promises_hold(self) -> None:
        check_world(self.world)

    def teardown(self) -> None:
        self.world.kill_in = None
        self.world.backend.faults.clear()
        self.world.start()  # what was accepted behind the loop's back is found by the next controller
        self.world.until_final(*self.jobs, turns=1000)
        check_world(self.world)
        assert self.world.backend.running() == []
        assert self.world.loop.num_live == 0
        for job_id in self.jobs:
            story = self.world.story(job_id)
            assert story.count("job-ended") == 1
            assert story[-1] == "job-ended"
            assert story.count("attempt-started") == story.count("attempt-ended")
        self.world.close()
        self.folder.cleanup()


def test_any_interleaving_of_faults_ends_with_every_job_final(
    world: Any, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: Path) -> Any:
        return type(world)(folder / "home", template)

    monkeypatch.setattr(AnyInterleaving, "make", make, raising=False)
    checks = settings(max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(AnyInterleaving, settings=checks)
