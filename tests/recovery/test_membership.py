"""Spares, fewer nodes and growing back, decided without any process: a small world carries the orders out."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.domain.events import EventKind
from mofang.domain.reasons import Reason
from mofang.domain.scenario import RestartPolicy
from mofang.recovery.agent.coordinator import ABSENT_S, GROW_MAX_S, GROW_S, RETURN_S, Coordinator, History
from mofang.recovery.agent.membership import Team, members, ranks_of
from mofang.recovery.agent.messages import Cleared, Exited, Hello, Problem, Started, StopAsked


@dataclass
class World:
    """Nodes that do as they are told, unless they are gone."""

    coordinator: Coordinator
    team: Team
    now: float = 0.0
    up: set[int] = field(default_factory=set)
    runs: dict[int, int] = field(default_factory=dict)  # node -> the generation of its workers
    starts: list[tuple[int, ...]] = field(default_factory=list)
    stops: list[tuple[int, float]] = field(default_factory=list)

    def come(self, node: int) -> None:
        self.up.add(node)
        generation = self.runs.get(node, 0)
        newest = self.coordinator.generation
        hello = Hello(node=node, generation=newest, intact=generation == newest > 0, idle=not generation, port=9)
        self.coordinator.receive(hello, self.now)

    def go(self, node: int, *, silent: bool, dead: bool) -> None:
        if node in self.up:
            self.up.discard(node)
            self.coordinator.lose(node, self.now, silent=silent)
        if dead:
            self.runs.pop(node, None)

    def fail(self, node: int, *, exclude: bool = False, step: int | None = None) -> None:
        generation = self.runs.get(node)
        if node in self.up and generation:
            problem = Problem(
                node=node,
                generation=generation,
                reason="worker-failed",
                message="bad",
                signature="s",
                step=step,
                exclude=exclude,
            )
            self.coordinator.receive(problem, self.now)

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.coordinator.tick(self.now)
        for node, order in self.coordinator.orders:
            self.stops.append((node, order.grace_s))
            if node in self.up:
                self.runs.pop(node, None)
                self.coordinator.receive(Cleared(node=node, generation=order.generation, port=9), self.now)
        self.coordinator.orders.clear()
        if self.coordinator.to_start is not None:
            self._start(self.coordinator.to_start)
            self.coordinator.to_start = None

    def _start(self, generation: int) -> None:
        nodes = members(self.coordinator.seats)
        assert self.coordinator.outcome is None
        assert set(nodes) <= self.up, "a node takes part that does not answer"
        assert not self.up & self.runs.keys(), "something of an older generation still runs"
        assert len(set(nodes)) == len(nodes)
        ranks = ranks_of(self.team.workers, nodes)
        every = [rank for node in nodes for rank in ranks[node]]
        assert every == list(range(self.coordinator.workers))
        self.starts.append(nodes)
        for node in nodes:
            self.runs[node] = generation
            pids = {str(rank): 1 for rank in ranks[node]}
            self.coordinator.receive(Started(node=node, generation=generation, pids=pids), self.now)

    def pass_time(self, seconds: float) -> None:
        for _ in range(2 * int(seconds)):
            self.tick(0.5)

    def notes(self, kind: EventKind) -> list[dict]:
        return [dict(note.data) for note in self.coordinator.notes if note.kind is kind]


def world(nodes: int = 4, spares: int = 1, min_nodes: int | None = None, **policy) -> World:
    team = Team(
        names=tuple(f"n{node}" for node in range(nodes)),
        workers=(2,) * nodes,
        spares=frozenset(range(nodes - spares, nodes)),
        min_nodes=min_nodes,
    )
    coordinator = Coordinator(
        team=team, policy=RestartPolicy(min_nodes=min_nodes, **policy), grace_s=5.0, history=History(), now=0.0
    )
    made = World(coordinator, team)
    for node in range(nodes):
        made.come(node)
    made.tick()
    return made


def test_spare_takes_the_seat_of_a_lost_node_and_the_others_keep_their_ranks():
    there = world()
    there.go(1, silent=True, dead=True)
    there.tick(0.1)
    there.tick(0.1)
    assert there.starts == [(0, 1, 2), (0, 3, 2)]
    (change,) = there.notes(EventKind.MEMBERS_CHANGED)
    assert change["message"] == "n1 lost, n3 takes part: 3 of 3 nodes"
    there.come(1)  # and is the spare from now on
    there.pass_time(2 * GROW_MAX_S)
    assert len(there.starts) == 2
    there.go(0, silent=True, dead=True)
    there.pass_time(1)
    assert there.starts[-1] == (1, 3, 2)


def test_agent_that_is_soon_back_costs_nothing_though_a_spare_is_there():
    there = world()
    there.go(1, silent=False, dead=False)
    there.pass_time(ABSENT_S - 1)
    there.come(1)
    there.pass_time(ABSENT_S)
    assert there.starts == [(0, 1, 2)]
    there.go(1, silent=False, dead=True)
    there.pass_time(ABSENT_S + 1)
    assert there.starts == [(0, 1, 2), (0, 3, 2)]


def test_without_a_spare_it_goes_on_with_fewer_and_grows_back():
    there = world(3, 0, min_nodes=2)
    there.go(1, silent=True, dead=True)
    there.pass_time(1)
    assert there.starts[-1] == (0, 2)
    assert there.coordinator.workers == 4
    there.pass_time(60)
    there.come(1)
    there.stops.clear()
    there.tick(0.1)
    there.tick(0.1)
    assert there.starts[-1] == (0, 1, 2)
    assert set(there.stops) == {(0, 5.0), (2, 5.0)}  # with grace: they save
    reasons = [note["reason"] for note in there.notes(EventKind.GENERATION_ENDED)]
    assert reasons == [Reason.NODE_LOST, Reason.RESIZED]


def test_growing_back_keeps_its_distance_from_a_node_that_comes_and_goes():
    there = world(3, 0, min_nodes=2)
    for _ in range(60):
        there.go(1, silent=True, dead=True)
        there.pass_time(10)
        there.come(1)
        there.pass_time(10)
    grown = [note for note in there.notes(EventKind.GENERATION_ENDED) if note["reason"] == Reason.RESIZED]
    assert 3 <= len(grown) <= 10  # 1,200 s; without a back-off it would be 60


def test_too_few_nodes_wait_and_then_end():
    there = world(3, 0, min_nodes=2)
    there.go(1, silent=True, dead=True)
    there.go(2, silent=True, dead=True)
    there.pass_time(RETURN_S - 5)
    assert len(there.starts) == 1
    there.come(2)
    there.pass_time(1)
    assert there.starts[-1] == (0, 2)
    there.go(2, silent=True, dead=True)
    there.pass_time(RETURN_S + 5)
    assert there.coordinator.outcome is not None
    assert there.coordinator.outcome.reason is Reason.NODE_LOST


def test_node_at_fault_is_left_out_where_somebody_takes_its_place():
    there = world()
    there.fail(1, exclude=True)
    there.pass_time(1)
    assert there.starts[-1] == (0, 3, 2)
    there.fail(2, exclude=True)  # nobody is left to take its place
    there.pass_time(2)
    assert there.starts[-1] == (0, 3, 2)
    (ended, _) = there.notes(EventKind.GENERATION_ENDED)
    assert (ended["node"], ended["excluded"]) == ("n1", [1])


def test_excluded_nodes_are_called_back_before_the_attempt_ends_for_want_of_nodes():
    there = world()
    there.fail(1, exclude=True)
    there.pass_time(1)
    there.go(3, silent=True, dead=True)
    there.pass_time(RETURN_S + 3)
    assert there.starts[-1] == (0, 1, 2)


def test_at_the_start_planned_nodes_are_waited_for_but_not_for_ever():
    team = Team(names=("a", "b", "c"), workers=(1, 1, 1), spares=frozenset({2}))
    coordinator = Coordinator(team=team, policy=RestartPolicy(), grace_s=1.0, history=History(), now=0.0)
    there = World(coordinator, team)
    there.come(0)
    there.come(2)
    there.pass_time(ABSENT_S - 1)
    assert there.starts == []
    there.pass_time(2)
    assert there.starts == [(0, 2)]


def test_all_done_while_asked_to_make_room_is_the_end():
    there = world(3, 0, min_nodes=2)
    there.go(1, silent=True, dead=True)
    there.pass_time(GROW_S + 2)
    there.come(1)
    there.coordinator.tick(there.now)  # the order is given
    for rank in range(4):
        node = (0, 2)[rank // 2]
        there.coordinator.receive(Exited(node=node, generation=2, rank=rank), there.now)
    there.pass_time(2)
    assert there.coordinator.outcome is not None
    assert there.coordinator.outcome.reason is Reason.COMPLETED


def test_new_coordinator_remembers_who_sat_where_and_who_was_left_out():
    team = Team(names=("a", "b", "c", "d"), workers=(1,) * 4, spares=frozenset({3}), min_nodes=2)
    history = History(generation=7, started=7, seats=(0, 3, None), excluded={1})
    coordinator = Coordinator(team=team, policy=RestartPolicy(min_nodes=2), grace_s=1.0, history=history, now=0.0)
    there = World(coordinator, team, runs={0: 7, 3: 7})
    there.come(0)
    there.come(3)
    there.come(1)
    there.tick()
    assert there.starts == []  # adopted
    there.pass_time(GROW_S + 1)
    assert there.starts == []  # node 1 is not to take the empty seat
    there.come(2)
    there.pass_time(1)
    assert there.starts == [(0, 3, 2)]


EVENTS = st.tuples(
    st.sampled_from(["fail", "fault", "power", "agent", "link", "come", "time", "long", "step"]), st.integers(0, 4)
)


def _happen(there: World, what: str, node: int, number: int) -> None:
    match what:
        case "fail":
            there.fail(node, step=number)
        case "fault":
            there.fail(node, exclude=True, step=number)
        case "power":
            there.go(node, silent=True, dead=True)
        case "agent":
            there.go(node, silent=False, dead=False)
        case "link":
            there.go(node, silent=True, dead=False)
        case "come":
            if node not in there.up:
                there.come(node)
        case "time":
            there.pass_time(4)
        case "long":
            there.pass_time(RETURN_S / 2)
    there.tick(0.2)


@settings(deadline=None, max_examples=150)
@given(
    events=st.lists(EVENTS, max_size=40),
    spares=st.integers(0, 2),
    min_nodes=st.sampled_from([None, 1, 2, 3]),
    most=st.sampled_from([None, 3]),
)
def test_whatever_happens_the_members_are_right_and_it_runs_in_the_end(events, spares, min_nodes, most):
    least = None if min_nodes is None else min(min_nodes, 5 - spares)
    there = world(5, spares, least, max_restarts=most)
    coordinator = there.coordinator
    for number, (what, node) in enumerate(events):
        _happen(there, what, node, number)
        sitting, left_out = set(members(coordinator.seats)), coordinator._nodes.excluded
        assert not (sitting & left_out & there.runs.keys()) or coordinator._phase != "running"
    for nodes in there.starts:
        assert len(nodes) == 5 - spares or (least is not None and len(nodes) >= least)
    failures = [note for note in there.notes(EventKind.GENERATION_ENDED) if note["reason"] != Reason.RESIZED]
    assert most is None or len(failures) <= most + 1
    ended = coordinator.outcome is not None or coordinator._end is not None
    for node in range(5):
        if node not in there.up:
            there.come(node)
    there.pass_time(RETURN_S + GROW_MAX_S + 20)
    if not ended:
        running = {node: number for node, number in there.runs.items() if number == coordinator.generation}
        assert coordinator.outcome is None
        assert running.keys() == set(members(coordinator.seats))
        assert None not in coordinator.seats or coordinator._nodes.excluded


@settings(deadline=None, max_examples=40)
@given(events=st.lists(EVENTS, max_size=20))
def test_stop_ends_it_whatever_happened(events):
    there = world(5, 2, 1)
    for number, (what, node) in enumerate(events):
        _happen(there, what, node, number)
    there.coordinator.receive(StopAsked(node=0), there.now)
    there.pass_time(RETURN_S + 10)
    assert there.coordinator.outcome is not None
    assert not there.up & there.runs.keys()
