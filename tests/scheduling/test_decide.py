"""What `decide` promises, on cases small enough to check by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mofang.domain.estimate import Estimate, Interval
from mofang.domain.hardware import Device, Node, NodeState
from mofang.domain.job import Allocation, NodeDevices
from mofang.domain.plan import Placement, Plan
from mofang.domain.reasons import Reason
from mofang.domain.strategy import Parallelism, Sharding, Strategy
from mofang.scheduling.decide import PATIENCE_S, decide
from mofang.scheduling.decision import Decision, Wait
from mofang.scheduling.view import RunningJob, View, WaitingJob

GIB = 2**30


def a_node(
    name: str,
    chips: int = 8,
    kind: str = "H100",
    cores: int = 0,
    memory: int = 64 * GIB,
    state: NodeState = NodeState.UP,
) -> Node:
    devices = [Device(index=index, accelerator=kind) for index in range(chips)]
    devices += [Device(index=index, accelerator="cpu") for index in range(cores)]
    return Node(name=name, cluster="c", devices=tuple(devices), cores=cores, memory_bytes=memory, state=state)


def a_plan(
    devices: int, nodes: int = 1, kind: str = "H100", seconds: float | None = None, memory: int = 0, cluster: str = "c"
) -> Plan:
    estimate = None if seconds is None else Estimate(
        step_time_s=1, step_time_90=Interval(low=1, high=1), tokens_per_s=1, mfu=0.5, memory_bytes=1, peak_flops=1,
        total_time_s=seconds,
    )  # fmt: skip
    sharding = Sharding.DDP if devices > 1 else Sharding.NONE
    return Plan(
        strategy=Strategy(parallelism=Parallelism(dp=devices), sharding=sharding),
        placement=Placement(
            cluster=cluster, accelerator=kind, num_devices=devices, num_nodes=nodes, node_memory_bytes=memory
        ),
        steps=1,
        estimate=estimate,
    )


def waits(name: str, *plans: Plan, at: float = 0.0, priority: int = 0, not_before: float = 0.0) -> WaitingJob:
    return WaitingJob(id=name, submitted_at=at, plans=plans, priority=priority, not_before=not_before)


def runs(name: str, node: str, devices: Sequence[int], kind: str = "H100", end: float | None = None, memory: int = 0):
    part = NodeDevices(node=node, accelerator=kind, indices=tuple(devices))
    return RunningJob(
        id=name, allocation=Allocation(cluster="c", nodes=(part,)), node_memory_bytes=memory, expected_end=end
    )


def decided(nodes: Sequence[Node], running: Sequence[RunningJob], waiting: Sequence[WaitingJob], now: float = 0.0):
    return decide(View.build(nodes, running, waiting), now)


def started(decision: Decision) -> dict[str, int]:
    return {start.job_id: start.plan_index for start in decision.starts}


def the_wait(decision: Decision, name: str) -> Wait:
    return next(wait for wait in decision.waits if wait.job_id == name)


def test_a_job_starts_with_its_best_plan_that_fits() -> None:
    nodes = [a_node("a"), a_node("b", kind="A100")]
    plans = (a_plan(8), a_plan(4), a_plan(8, kind="A100"))
    assert started(decided(nodes, [], [waits("j", *plans)])) == {"j": 0}
    assert started(decided(nodes, [runs("r", "a", range(3))], [waits("j", *plans)])) == {"j": 1}
    assert started(decided(nodes, [runs("r", "a", range(7))], [waits("j", *plans)])) == {"j": 2}


def test_an_allocation_names_free_devices_of_each_node() -> None:
    nodes = [a_node("a", chips=4), a_node("b", chips=4)]
    decision = decided(nodes, [runs("r", "a", [0, 2])], [waits("j", a_plan(4, nodes=2))])
    assert decision.starts[0].allocation == Allocation(
        cluster="c",
        nodes=(
            NodeDevices(node="a", accelerator="H100", indices=(1, 3)),
            NodeDevices(node="b", accelerator="H100", indices=(0, 1)),
        ),
    )


def test_unhealthy_devices_are_not_given() -> None:
    devices = tuple(Device(index=index, accelerator="H100", healthy=index != 0) for index in range(2))
    node = Node(name="a", cluster="c", devices=devices, cores=0, memory_bytes=GIB)
    decision = decided([node], [], [waits("one", a_plan(1)), waits("two", a_plan(2), at=1)])
    assert decision.starts[0].allocation.nodes[0].indices == (1,)
    assert the_wait(decision, "two").reason is Reason.TOO_FEW_DEVICES


def test_small_jobs_fill_the_fullest_node_so_that_large_ones_still_fit() -> None:
    nodes = [a_node("a"), a_node("b")]
    jobs = [waits("small", a_plan(2)), waits("large", a_plan(8), at=1)]
    decision = decided(nodes, [runs("r", "b", range(4))], jobs)
    assert [part.node for start in decision.starts for part in start.allocation.nodes] == ["b", "a"]


def test_jobs_for_cores_keep_away_from_chips() -> None:
    nodes = [a_node("chips", cores=4), a_node("plain", chips=0, cores=8)]
    decision = decided(nodes, [], [waits("j", a_plan(2, kind="cpu"))])
    assert decision.starts[0].allocation.nodes[0].node == "plain"


def test_priority_goes_before_submission_and_submission_before_the_rest() -> None:
    jobs = [
        waits("late", a_plan(8), at=2),
        waits("early", a_plan(8), at=1),
        waits("urgent", a_plan(8), at=3, priority=1),
    ]
    decision = decided([a_node("a"), a_node("b")], [], jobs)
    assert list(started(decision)) == ["urgent", "early"]
    assert the_wait(decision, "late").position == 1


def test_host_memory_is_a_resource_like_any_other() -> None:
    jobs = [waits("first", a_plan(1, memory=40 * GIB)), waits("second", a_plan(1, memory=40 * GIB), at=1)]
    decision = decided([a_node("a")], [], jobs)
    assert list(started(decision)) == ["first"]
    assert the_wait(decision, "second").reason is Reason.WAITING_FOR_DEVICES
    assert "host memory" in the_wait(decision, "second").message


def test_a_short_job_passes_only_if_it_ends_before_the_reserved_time() -> None:
    running = [runs("r", "a", range(4), end=100.0)]
    jobs = [
        waits("head", a_plan(8, seconds=10)),
        waits("long", a_plan(2, seconds=101), at=1),
        waits("unknown", a_plan(2), at=2),
        waits("short", a_plan(2, seconds=100), at=3),
    ]
    decision = decided([a_node("a")], running, jobs)
    assert list(started(decision)) == ["short"]
    head = the_wait(decision, "head")
    assert (head.reason, head.expected_start, head.blockers) == (Reason.WAITING_FOR_DEVICES, 100.0, ("r",))
    assert head.message == "needs 8 x H100 on 1 node: 2 of 8 are free in cluster c"
    assert the_wait(decision, "long").reason is Reason.RESERVED
    assert the_wait(decision, "long").blockers == ("head",)


def test_a_long_job_passes_on_what_the_reservation_leaves_over() -> None:
    nodes = [a_node("a"), a_node("b", chips=4)]
    running = [runs("r", "a", range(6), end=100.0)]
    jobs = [waits("head", a_plan(6)), waits("spare", a_plan(2), at=1), waits("more", a_plan(4), at=2)]
    decision = decided(nodes, running, jobs)
    assert list(started(decision)) == ["spare", "more"]
    assert [start.allocation.nodes[0].node for start in decision.starts] == ["a", "b"]


def test_jobs_for_other_devices_are_not_held_up_and_have_a_first_one_of_their_own() -> None:
    nodes = [a_node("a", cores=4)]
    running = [runs("chips", "a", range(4), end=50.0), runs("cores", "a", range(2), kind="cpu", end=80.0)]
    jobs = [
        waits("chip-head", a_plan(8)),
        waits("core-head", a_plan(4, kind="cpu"), at=1),
        waits("core-long", a_plan(1, kind="cpu", seconds=1000), at=2),
        waits("core-short", a_plan(1, kind="cpu", seconds=40), at=3),
    ]
    decision = decided(nodes, running, jobs)
    assert list(started(decision)) == ["core-short"]
    assert the_wait(decision, "core-head").expected_start == 80.0
    assert the_wait(decision, "core-long").reason is Reason.RESERVED


def test_a_late_running_job_lets_nobody_pass() -> None:
    running = [runs("r", "a", range(4), end=10.0)]
    jobs = [waits("head", a_plan(8)), waits("short", a_plan(1, seconds=1), at=1)]
    assert started(decided([a_node("a")], running, jobs, now=20.0)) == {}


def test_where_nobody_knows_when_jobs_end_patience_is_bounded() -> None:
    running = [runs("r", "a", range(4))]
    jobs = [waits("head", a_plan(8)), waits("small", a_plan(1), at=1)]
    before = decided([a_node("a")], running, jobs, now=PATIENCE_S - 1)
    assert (list(started(before)), the_wait(before, "head").expected_start) == (["small"], None)
    after = decided([a_node("a")], running, jobs, now=PATIENCE_S)
    assert started(after) == {}
    assert the_wait(after, "small").reason is Reason.RESERVED


def test_a_patient_job_collects_devices_where_it_lacks_the_fewest_and_no_more_than_it_needs() -> None:
    running = [runs("r", "a", range(6)), runs("s", "b", range(1))]
    jobs = [waits("head", a_plan(8)), waits("small", a_plan(2), at=1), waits("third", a_plan(1), at=2)]
    decision = decided([a_node("a"), a_node("b")], running, jobs, now=PATIENCE_S)
    assert [start.allocation.nodes[0].node for start in decision.starts] == ["a"]


@pytest.mark.parametrize(
    ("plan", "reason", "words"),
    [
        (a_plan(1, kind="B200"), Reason.NO_SUCH_DEVICE, "needs 1 x B200 on 1 node, and cluster c has none"),
        (a_plan(1, cluster="other"), Reason.NO_SUCH_DEVICE, "cluster other has none"),
        (a_plan(1, cluster=""), Reason.NO_SUCH_DEVICE, "only described"),
        (a_plan(16), Reason.TOO_FEW_DEVICES, "needs 16 x H100 on 1 node, and cluster c has 16, at most 8 on a node"),
        (a_plan(24, nodes=3), Reason.TOO_FEW_DEVICES, "on 3 nodes"),
        (a_plan(1, memory=65 * GIB), Reason.MEMORY, "69.8 GB of host memory on each node"),
        (a_plan(16, nodes=2), Reason.NODE_DOWN, "1 of the fitting nodes"),
    ],
)
def test_what_cannot_start_says_why_with_its_figures(plan: Plan, reason: Reason, words: str) -> None:
    nodes = [a_node("a"), a_node("b", state=NodeState.DRAINING)]
    wait = the_wait(decided(nodes, [], [waits("j", plan)]), "j")
    assert wait.reason is reason
    assert words in wait.message


def test_the_plan_nearest_to_a_start_gives_the_reason() -> None:
    plans = (a_plan(1, kind="B200"), a_plan(8), a_plan(16))
    wait = the_wait(decided([a_node("a")], [runs("r", "a", [0])], [waits("j", *plans)]), "j")
    assert wait.reason is Reason.WAITING_FOR_DEVICES


def test_an_impossible_job_holds_up_nobody() -> None:
    jobs = [waits("never", a_plan(16)), waits("next", a_plan(8), at=1), waits("last", a_plan(8), at=2)]
    decision = decided([a_node("a")], [], jobs)
    assert list(started(decision)) == ["next"]


def test_a_job_that_backs_off_waits_and_holds_up_nobody() -> None:
    jobs = [waits("again", a_plan(8), not_before=12.0), waits("next", a_plan(8), at=1)]
    decision = decided([a_node("a")], [], jobs)
    assert list(started(decision)) == ["next"]
    wait = the_wait(decision, "again")
    assert (wait.reason, wait.expected_start, wait.message) == (Reason.BACKOFF, 12.0, "its next attempt is in 12s")


def test_an_empty_world_decides() -> None:
    decision = decided([], [], [waits("j", a_plan(1)), waits("none", at=1)])
    assert [wait.reason for wait in decision.waits] == [Reason.NO_SUCH_DEVICE, Reason.NO_SUCH_DEVICE]
    assert decided([], [], []) == Decision(starts=(), waits=())


def test_holdings_on_nodes_that_are_gone_are_left_out() -> None:
    assert started(decided([a_node("a")], [runs("r", "gone", range(8))], [waits("j", a_plan(8))])) == {"j": 0}


def test_spare_nodes_are_held_beside_those_of_the_plan() -> None:
    asks = replace(waits("a", a_plan(8, nodes=2)), spare_nodes=1)
    nodes = [a_node(f"n{index}", 4) for index in range(3)]
    decision = decided(nodes, [], [asks, waits("b", a_plan(4), at=1.0)])
    (start,) = decision.starts
    assert [part.node for part in start.allocation.nodes] == ["n0", "n1", "n2"]
    assert the_wait(decision, "b").reason is Reason.WAITING_FOR_DEVICES
    assert the_wait(decided(nodes[:2], [], [asks]), "a").reason is Reason.TOO_FEW_DEVICES
