"""What holds for every fleet and every stream of jobs, found by simulation."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.domain.estimate import Estimate, Interval
from mofang.domain.hardware import Device, Node, NodeState
from mofang.domain.job import Allocation
from mofang.domain.plan import Placement, Plan
from mofang.domain.strategy import Parallelism, Sharding, Strategy
from mofang.scheduling.decide import PATIENCE_S, decide
from mofang.scheduling.decision import Decision
from mofang.scheduling.view import RunningJob, View, WaitingJob

KINDS = ("H100", "cpu")


def a_plan(kind: str, per_node: int, num_nodes: int, memory: int, seconds: float | None) -> Plan:
    count = per_node * num_nodes
    estimate = None if seconds is None else Estimate(
        step_time_s=1, step_time_90=Interval(low=1, high=1), tokens_per_s=1, mfu=0.5, memory_bytes=1, peak_flops=1,
        total_time_s=seconds,
    )  # fmt: skip
    return Plan(
        strategy=Strategy(parallelism=Parallelism(dp=count), sharding=Sharding.DDP),
        placement=Placement(
            cluster="c", accelerator=kind, num_devices=count, num_nodes=num_nodes, node_memory_bytes=memory
        ),
        steps=1,
        estimate=estimate,
    )


def a_node(name: str, chips: int, cores: int, memory: int, state: NodeState, sick: int) -> Node:
    devices = [Device(index=index, accelerator="H100", healthy=index != sick) for index in range(chips)]
    devices += [Device(index=index, accelerator="cpu") for index in range(cores)]
    return Node(name=name, cluster="c", devices=tuple(devices), cores=cores, memory_bytes=memory, state=state)


def fleets(states: st.SearchStrategy[NodeState]) -> st.SearchStrategy[list[Node]]:
    sizes = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(4, 12), states, st.integers(-1, 3))
    return st.lists(sizes, min_size=1, max_size=5).map(
        lambda rows: [a_node(f"n{index}", *row) for index, row in enumerate(rows)]
    )


seconds = st.one_of(st.none(), st.integers(1, 500).map(float))
plans = st.builds(a_plan, st.sampled_from(KINDS), st.integers(1, 4), st.integers(1, 3), st.integers(0, 6), seconds)


@dataclass
class Job:
    """A job of the simulation, with the time it truly takes."""

    waiting: WaitingJob
    takes: float


def jobs_of(plan: st.SearchStrategy[Plan], *, exact: bool, priorities: int = 1) -> st.SearchStrategy[list[Job]]:
    rows = st.tuples(
        st.lists(plan, min_size=1, max_size=3), st.integers(0, 300), st.integers(0, priorities), st.integers(1, 500)
    )

    def made(rows: list[tuple[list[Plan], int, int, int]]) -> list[Job]:
        return [
            Job(
                waiting=WaitingJob(id=f"j{index}", submitted_at=float(at), plans=tuple(plans), priority=priority),
                takes=-1.0 if exact else float(takes),
            )
            for index, (plans, at, priority, takes) in enumerate(rows)
        ]

    return st.lists(rows, min_size=1, max_size=14).map(made)


@dataclass
class World:
    """Runs jobs to their ends and checks every decision on the way."""

    nodes: list[Node]
    jobs: list[Job]
    now: float = 0.0
    running: dict[str, tuple[RunningJob, float]] = field(default_factory=dict)  # with the true end
    started_at: dict[str, float] = field(default_factory=dict)

    def run(self, most_rounds: int = 400) -> None:
        for _ in range(most_rounds):
            present = [job for job in self.jobs if job.waiting.submitted_at <= self.now]
            waiting = [job for job in present if job.waiting.id not in self.started_at]
            self.step(waiting)
            ends = [end for _, end in self.running.values()]
            arrivals = [job.waiting.submitted_at for job in self.jobs if job.waiting.submitted_at > self.now]
            if not ends and not arrivals:
                return
            self.now = min(ends + arrivals)
            self.running = {name: row for name, row in self.running.items() if row[1] > self.now}

    def step(self, waiting: list[Job]) -> Decision:
        view = View.build(self.nodes, [job for job, _ in self.running.values()], [job.waiting for job in waiting])
        decision = decide(view, self.now)
        self.check(waiting, decision)
        by_name = {job.waiting.id: job for job in waiting}
        for start in decision.starts:
            job = by_name[start.job_id]
            plan = job.waiting.plans[start.plan_index]
            guess = None if plan.estimate is None else plan.estimate.total_time_s
            takes = job.takes if job.takes >= 0 else (guess or 100.0)
            running = RunningJob(
                id=start.job_id,
                allocation=start.allocation,
                node_memory_bytes=plan.placement.node_memory_bytes,
                expected_end=None if guess is None else self.now + guess,
            )
            self.running[start.job_id] = (running, self.now + takes)
            self.started_at[start.job_id] = self.now
        return decision

    def check(self, waiting: list[Job], decision: Decision) -> None:
        names = [start.job_id for start in decision.starts] + [wait.job_id for wait in decision.waits]
        assert sorted(names) == sorted(job.waiting.id for job in waiting)
        assert all(wait.message and wait.position == index for index, wait in enumerate(decision.waits, start=1))
        held = [(job.allocation, job.node_memory_bytes) for job, _ in self.running.values()]
        plan_of = {job.waiting.id: job.waiting.plans for job in waiting}
        for start in decision.starts:
            plan = plan_of[start.job_id][start.plan_index]
            self.check_allocation(plan, start.allocation)
            held.append((start.allocation, plan.placement.node_memory_bytes))
        devices = [(part.node, part.accelerator, index) for a, _ in held for part in a.nodes for index in part.indices]
        assert len(devices) == len(set(devices)), "a device was given twice"
        for node in self.nodes:
            used = sum(memory for allocation, memory in held if node.name in {part.node for part in allocation.nodes})
            assert used <= node.memory_bytes

    def check_allocation(self, plan: Plan, allocation: Allocation) -> None:
        nodes = {node.name: node for node in self.nodes}
        assert len({part.node for part in allocation.nodes}) == plan.placement.num_nodes
        for part in allocation.nodes:
            node = nodes[part.node]
            assert node.state is NodeState.UP
            assert len(part.indices) == plan.placement.devices_per_node
            usable = {
                device.index for device in node.devices if device.healthy and device.accelerator == part.accelerator
            }
            assert set(part.indices) <= usable


@settings(max_examples=60, deadline=None)
@given(fleets(st.sampled_from(NodeState)), jobs_of(plans, exact=False))
def test_devices_are_conserved_and_every_waiting_job_has_a_reason(nodes: list[Node], jobs: list[Job]) -> None:
    World(nodes=nodes, jobs=jobs).run()


@settings(max_examples=60, deadline=None)
@given(fleets(st.just(NodeState.UP)), jobs_of(plans, exact=False))
def test_every_job_that_could_run_alone_does_in_the_end(nodes: list[Node], jobs: list[Job]) -> None:
    alone = {
        job.waiting.id for job in jobs if decide(View.build(nodes, [], [job.waiting]), job.waiting.submitted_at).starts
    }
    world = World(nodes=nodes, jobs=jobs)
    world.run()
    assert set(world.started_at) == alone


@settings(max_examples=80, deadline=None)
@given(
    fleets(st.just(NodeState.UP)),
    jobs_of(
        st.builds(
            a_plan,
            st.sampled_from(KINDS),
            st.integers(1, 4),
            st.integers(1, 3),
            st.integers(0, 6),
            st.integers(1, 500).map(float),
        ),
        exact=True,
        priorities=0,
    ),
)
def test_the_first_job_is_never_later_than_promised_when_estimates_hold(nodes: list[Node], jobs: list[Job]) -> None:
    promised: dict[str, float] = {}

    class Watched(World):
        def check(self, waiting: list[Job], decision: Decision) -> None:
            super().check(waiting, decision)
            possible = [wait for wait in decision.waits if wait.expected_start is not None]
            if possible:
                promised.setdefault(possible[0].job_id, possible[0].expected_start or 0.0)

    world = Watched(nodes=nodes, jobs=jobs)
    world.run()
    late = {
        name: (world.started_at[name], time) for name, time in promised.items() if world.started_at[name] > time + 1e-6
    }
    assert not late


@settings(max_examples=40, deadline=None)
@given(fleets(st.sampled_from(NodeState)), jobs_of(plans, exact=False), st.randoms(use_true_random=False))
def test_the_order_in_which_the_world_is_told_changes_nothing(nodes: list[Node], jobs: list[Job], shuffle) -> None:
    waiting = [job.waiting for job in jobs]
    first = decide(View.build(nodes, [], waiting), 300.0)
    shuffle.shuffle(nodes)
    shuffle.shuffle(waiting)
    assert decide(View.build(nodes, [], waiting), 300.0) == first


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 6), st.integers(60, 200))
def test_an_endless_stream_of_small_jobs_of_unknown_length_starves_nobody(size: int, takes: int) -> None:
    node = a_node("n0", chips=size, cores=0, memory=8, state=NodeState.UP, sick=-1)
    small = a_plan("H100", 1, 1, 0, None)
    large = a_plan("H100", size, 1, 0, None)
    step = takes / (size + 1)  # more work arrives than the node can do
    arrivals = int((PATIENCE_S + 5 * takes) / step)
    jobs = [
        Job(waiting=WaitingJob(id=f"small{index}", submitted_at=index * step, plans=(small,)), takes=float(takes))
        for index in range(arrivals)
    ]
    jobs.append(Job(waiting=WaitingJob(id="large", submitted_at=1.5 * step, plans=(large,)), takes=1.0))
    world = World(nodes=[node], jobs=jobs)
    while "large" not in world.started_at and world.now < PATIENCE_S + 5 * takes:
        world.run(most_rounds=1)
    assert world.started_at["large"] <= 1.5 * step + PATIENCE_S + 2 * takes
