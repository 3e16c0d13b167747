import pytest

from mofang.domain.events import EventKind
from mofang.domain.reasons import Reason
from mofang.report.bars import recovery_parts
from mofang.report.recoveries import failed_rank, recoveries


@pytest.fixture
def story(make_story):
    return make_story()


def stepped(story, first, last, generation):
    for step in range(first, last + 1):
        story.now += 1.0
        story.tell(EventKind.STEP, generation=generation, step=step, loss=1.0, step_time_s=1.0)


def killed(story, generation, rank=1):
    story.tell(EventKind.WORKER_EXITED, source="agent-00", generation=generation, rank=rank, exit_code=None, signal=9)
    story.tell(EventKind.GENERATION_ENDED, source="agent-00", generation=generation, reason=Reason.WORKER_KILLED)


def restarted(story, generation):
    story.tell(EventKind.GENERATION_STARTED, source="agent-00", generation=generation, workers=2)


def test_the_way_back_from_a_kill_is_told_in_its_parts(make_events):
    (found,) = recoveries(make_events())
    assert found.what == "worker 1: SIGKILL"
    assert found.step == 317
    assert found.loaded_step == 300
    assert found.detected_at - found.fault_at == pytest.approx(0.11)
    assert found.restarted_at - found.fault_at == pytest.approx(0.56)
    assert found.loaded_at - found.fault_at == pytest.approx(3.76)
    assert found.seconds == pytest.approx(3.76 + 0.14 * 2.5, rel=0.02)
    assert found.caught_up_at > found.resumed_at
    assert sum(seconds for _, seconds in recovery_parts(found)) == pytest.approx(found.caught_up_at - found.fault_at)


def test_the_order_of_events_does_not_matter(make_events):
    events = make_events()
    assert recoveries(events[::-1]) == recoveries(events)


def test_a_job_that_ends_in_peace_has_no_faults(make_events):
    assert recoveries(make_events(fault=False)) == ()


def test_workers_that_someone_stopped_are_no_fault(story):
    stepped(story, 1, 3, 1)
    story.tell(EventKind.STOP_REQUESTED, source="control", generation=0, by="me")
    killed(story, 1)
    assert recoveries(story.events) == ()


def test_generations_that_fail_before_a_step_belong_to_one_fault(story):
    stepped(story, 1, 5, 1)
    killed(story, 1)
    for generation in (2, 3):
        story.now += 2.0
        restarted(story, generation)
        story.now += 1.0
        killed(story, generation)
    story.now += 2.0
    restarted(story, 4)
    stepped(story, 4, 8, 4)
    (found,) = recoveries(story.events)
    assert found.failures == 3
    assert found.seconds == pytest.approx(9.0)
    assert found.caught_up_at - found.fault_at == pytest.approx(10.0)


def test_two_faults_are_two(story):
    stepped(story, 1, 5, 1)
    killed(story, 1)
    restarted(story, 2)
    stepped(story, 4, 9, 2)
    killed(story, 2)
    restarted(story, 3)
    stepped(story, 8, 12, 3)
    first, second = recoveries(story.events)
    assert (first.step, second.step) == (5, 9)
    assert (first.failures, second.failures) == (1, 1)
    assert second.resumed_at > second.fault_at > first.resumed_at > first.fault_at


def test_a_survivors_last_step_is_not_the_way_back(story):
    stepped(story, 1, 5, 1)
    story.tell(EventKind.FAULT_INJECTED, source="r0001", step=5, rank=1, what="SIGKILL")
    stepped(story, 6, 6, 1)
    killed(story, 1)
    restarted(story, 2)
    stepped(story, 5, 8, 2)
    (found,) = recoveries(story.events)
    assert found.seconds == pytest.approx(2.0)


def test_a_job_that_never_came_back_says_so(story):
    stepped(story, 1, 5, 1)
    killed(story, 1)
    (found,) = recoveries(story.events)
    assert found.seconds is None
    assert found.caught_up_at is None


def test_a_program_without_steps_goes_on_when_it_is_started_again(story):
    restarted(story, 1)
    story.now += 5
    killed(story, 1)
    story.now += 2
    restarted(story, 2)
    story.now += 5
    killed(story, 2)
    first, second = recoveries(story.events)
    assert first.seconds == pytest.approx(2.0)
    assert second.seconds is None


def test_a_lost_agent_is_a_fault_of_the_attempt(story):
    stepped(story, 1, 5, 1)
    story.now += 10
    story.tell(
        EventKind.ATTEMPT_ENDED, source="control", generation=0, reason=Reason.AGENT_LOST, message="agent is gone"
    )
    story.now += 1
    story.tell(EventKind.GENERATION_STARTED, source="agent-00", attempt=2, generation=1, workers=2)
    story.now += 1
    story.tell(EventKind.STEP, attempt=2, generation=1, step=4, loss=1.0)
    (found,) = recoveries(story.events)
    assert found.what == "agent is gone"
    assert found.seconds == pytest.approx(2.0)


def test_the_rank_that_failed_is_the_first_of_its_generation_not_those_killed_for_it(story):
    for generation, rank in ((1, 0), (2, 1)):
        stepped(story, 1, 2, generation)
        killed(story, generation, rank=rank)
        killed(story, generation, rank=1 - rank)
    assert failed_rank(story.events) == 1


def test_without_a_failure_the_first_rank_is_shown(story):
    stepped(story, 1, 2, 1)
    assert failed_rank(story.events) == 0
