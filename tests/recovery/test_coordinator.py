"""The course of an attempt, decided without any process."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.domain.events import EventKind
from mofang.domain.reasons import Reason
from mofang.domain.scenario import RestartPolicy
from mofang.recovery.agent.coordinator import ABSENT_S, RETURN_S, Coordinator, History
from mofang.recovery.agent.failures import End, Failure
from mofang.recovery.agent.membership import Team
from mofang.recovery.agent.messages import (
    Cleared,
    Exited,
    Finish,
    Hello,
    Ping,
    Problem,
    Started,
    StartGeneration,
    StopAsked,
    StopGeneration,
    from_wire,
    to_wire,
)


def _coordinator(nodes: int = 2, **history) -> Coordinator:
    team = Team(names=tuple(f"n{node}" for node in range(nodes)), workers=(2,) * nodes)
    return Coordinator(team=team, policy=RestartPolicy(), grace_s=5.0, history=History(**history), now=0.0)


def _hello(node: int, generation: int = 0, *, intact: bool = False) -> Hello:
    return Hello(node=node, generation=generation, intact=intact)


def _problem(generation: int, node: int = 0, **changes) -> Problem:
    fields = {"reason": "worker-failed", "message": "bad", "signature": "s", "step": None, "time": 1.0}
    return Problem(node=node, generation=generation, **{**fields, **changes})


def _started(now: float = 0.0) -> Coordinator:
    coordinator = _coordinator()
    for node in (0, 1):
        coordinator.receive(_hello(node), now)
    coordinator.tick(now)
    coordinator.to_start = None
    return coordinator


def _kinds(coordinator: Coordinator) -> list[EventKind]:
    return [note.kind for note in coordinator.notes]


def test_first_generation_starts_when_every_node_is_there():
    coordinator = _coordinator()
    coordinator.receive(_hello(0), 0.0)
    coordinator.tick(0.0)
    assert coordinator.to_start is None
    coordinator.receive(_hello(1), 1.0)
    coordinator.tick(1.0)
    assert coordinator.to_start == 1


def test_node_that_never_comes_ends_the_attempt():
    coordinator = _coordinator()
    coordinator.receive(_hello(0), 0.0)
    coordinator.tick(RETURN_S - 1)
    assert coordinator.outcome is None
    coordinator.tick(RETURN_S + 1)
    assert coordinator.outcome is not None
    assert coordinator.outcome.reason is Reason.NODE_LOST


def test_failure_on_one_node_clears_all_before_the_next_generation():
    coordinator = _started()
    coordinator.receive(_problem(1, node=1), 9.0)
    coordinator.tick(9.0)
    assert [(node, order.generation) for node, order in coordinator.orders] == [(0, 1), (1, 1)]
    coordinator.receive(Cleared(node=0, generation=1), 9.1)
    coordinator.tick(9.1)
    assert coordinator.to_start is None
    coordinator.receive(Cleared(node=1, generation=1), 9.2)
    coordinator.tick(9.2)
    assert coordinator.to_start == 2


def test_of_several_failures_the_earliest_is_the_cause():
    coordinator = _started()
    coordinator.receive(_problem(1, time=5.0, message="connection closed by peer"), 9.0)
    coordinator.receive(_problem(1, node=1, time=4.0, message="killed"), 9.0)
    coordinator.tick(9.0)
    assert coordinator.notes[-1].data["message"] == "killed"


def test_reports_of_an_older_generation_do_not_count():
    coordinator = _started()
    coordinator.receive(_problem(1), 9.0)
    coordinator.tick(9.0)
    for node in (0, 1):
        coordinator.receive(Cleared(node=node, generation=1), 9.0)
    coordinator.tick(9.0)
    assert coordinator.generation == 2
    coordinator.receive(_problem(1), 9.5)
    coordinator.receive(Exited(node=0, generation=1, rank=0), 9.5)
    coordinator.tick(9.5)
    assert _kinds(coordinator).count(EventKind.GENERATION_ENDED) == 1


def test_all_ranks_of_all_nodes_complete_it():
    coordinator = _started()
    for rank in range(4):
        coordinator.tick(5.0)
        assert coordinator.orders == []
        coordinator.receive(Exited(node=rank // 2, generation=1, rank=rank), 5.0)
    coordinator.tick(5.0)
    for node in (0, 1):
        coordinator.receive(Cleared(node=node, generation=1), 6.0)
    coordinator.tick(6.0)
    assert coordinator.outcome == End(reason=Reason.COMPLETED, message="")


def test_brief_absence_harms_nobody_and_a_longer_one_fails_the_generation():
    coordinator = _started()
    coordinator.lose(1, 10.0)
    coordinator.tick(10.0 + ABSENT_S - 1)
    coordinator.receive(_hello(1, 1, intact=True), 10.0 + ABSENT_S)
    coordinator.tick(20.0 + ABSENT_S)
    assert coordinator.orders == []
    coordinator.lose(1, 50.0)
    coordinator.tick(50.0 + ABSENT_S + 1)
    assert coordinator.notes[-1].data["reason"] == "node-lost"
    coordinator.receive(Cleared(node=0, generation=1), 60.0)
    coordinator.receive(_hello(1, 1), 70.0)
    coordinator.receive(Cleared(node=1, generation=1), 71.0)
    coordinator.tick(71.0)
    assert coordinator.to_start == 2


def test_node_that_stays_away_ends_the_attempt():
    coordinator = _started()
    coordinator.lose(1, 10.0)
    coordinator.tick(10.0 + ABSENT_S + 1)
    coordinator.receive(Cleared(node=0, generation=1), 20.0)
    coordinator.tick(20.0)
    assert coordinator.outcome is None
    coordinator.tick(20.0 + RETURN_S)
    assert coordinator.outcome is not None
    assert coordinator.outcome.reason is Reason.NODE_LOST


def test_stop_gives_grace_and_wins_over_a_restart():
    coordinator = _started()
    coordinator.receive(StopAsked(node=1), 3.0)
    assert {order.grace_s for _, order in coordinator.orders} == {5.0}
    coordinator.receive(_problem(1), 3.5)
    for node in (0, 1):
        coordinator.receive(Cleared(node=node, generation=1), 4.0)
    coordinator.tick(4.0)
    assert coordinator.outcome is not None
    assert coordinator.outcome.reason is Reason.STOPPED_BY_USER


def test_living_generation_is_adopted_and_a_broken_one_replaced_without_blame():
    for intact in (True, False):
        coordinator = _coordinator(generation=4, started=4)
        coordinator.receive(_hello(0, 4, intact=True), 0.0)
        coordinator.receive(_hello(1, 4, intact=intact), 0.0)
        coordinator.tick(0.0)
        assert bool(coordinator.orders) is not intact
        for node in (0, 1):
            coordinator.receive(Cleared(node=node, generation=4), 1.0)
        coordinator.tick(1.0)
        assert coordinator.to_start == (None if intact else 5)
        assert EventKind.GENERATION_ENDED not in _kinds(coordinator)


def test_recorded_end_is_final():
    end = End(reason=Reason.COMPLETED, message="")
    coordinator = _coordinator(generation=1, started=1, ended=end)
    for node in (0, 1):
        coordinator.receive(_hello(node, 1, intact=True), 0.0)
    coordinator.tick(0.0)
    for node in (0, 1):
        coordinator.receive(Cleared(node=node, generation=1), 0.0)
    coordinator.tick(0.0)
    assert coordinator.outcome == end
    assert coordinator.to_start is None


def test_recorded_failures_are_judged_again_after_a_crash():
    failures = [
        Failure(generation=number, reason=Reason.WORKER_FAILED, message="bad", signature="s", step=1, seconds=9.0)
        for number in (1, 2, 3)
    ]
    coordinator = _coordinator(generation=3, started=3, failures=failures)
    for node in (0, 1):
        coordinator.receive(_hello(node, 3), 0.0)
    coordinator.tick(0.0)
    for node in (0, 1):
        coordinator.receive(Cleared(node=node, generation=3), 0.0)
    coordinator.tick(0.0)
    assert coordinator.outcome is not None
    assert coordinator.outcome.reason is Reason.REPEATED_FAILURE


STEPS = st.lists(st.sampled_from(["fail", "exit", "lose", "return", "clear", "time", "stop"]), max_size=60)


def _report(coordinator: Coordinator, step: str, node: int, number: int, now: float) -> None:
    generation = coordinator.generation
    if step == "lose":
        coordinator.lose(1, now)
        return
    reports = {
        "fail": _problem(generation, node=node, step=number),
        "exit": Exited(node=node, generation=generation, rank=2 * node + number % 2),
        "return": _hello(1, generation, intact=number % 2 == 0),
        "clear": Cleared(node=node, generation=generation),
        "stop": StopAsked(node=node),
        "time": Ping(node=0),
    }
    coordinator.receive(reports[step], now)


@settings(deadline=None, max_examples=120)
@given(steps=STEPS, seed=st.integers(0, 3))
def test_whatever_happens_no_generation_starts_before_the_last_one_is_cleared(steps, seed):
    coordinator = _started()
    now, running, cleared = 0.0, 1, set()
    for number, step in enumerate(steps):
        now += 20.0 if step == "time" else 0.5
        node = (number + seed) % 2
        if step == "clear" and node not in {ordered for ordered, _ in coordinator.orders}:
            continue  # nodes clear when told to
        _report(coordinator, step, node, number, now)
        cleared |= {node} if step == "clear" else set()
        before = coordinator.outcome
        coordinator.tick(now)
        assert before in {None, coordinator.outcome}
        assert before is None or coordinator.to_start is None
        if coordinator.to_start is not None:
            assert (coordinator.to_start, cleared) == (running + 1, {0, 1})
            running, cleared = coordinator.to_start, set()
            coordinator.to_start = None
            coordinator.orders.clear()


def test_messages_survive_the_wire():
    messages = [
        _hello(1, 2, intact=True),
        Ping(node=1),
        Started(node=1, generation=2, pids={"0": 7}),
        Exited(node=1, generation=2, rank=3),
        _problem(2),
        Cleared(node=0, generation=1),
        StopAsked(node=0),
        StartGeneration(generation=1, address="a", port=2, nodes=(0, 2)),
        StopGeneration(generation=1, grace_s=0.5),
        Finish(reason="completed"),
    ]
    assert [from_wire(to_wire(message)) for message in messages] == messages
