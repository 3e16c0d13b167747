"""Domain values refuse what cannot be, and survive being written and read."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.domain.codec import decode, encode, from_data, to_data
from mofang.domain.events import Event, EventKind
from mofang.domain.hardware import Accelerator, Cluster, Device, Fleet, Node, NodeState, Precision
from mofang.domain.job import Allocation, Attempt, Job, JobState, NodeDevices, marker
from mofang.domain.plan import Placement, Plan
from mofang.domain.rates import HostRates, Operator, OperatorRate, Phase
from mofang.domain.reasons import Reason, Rejection, precedence
from mofang.domain.scenario import Command, Resources, Scenario
from mofang.domain.strategy import Parallelism, Sharding, Strategy
from mofang.errors import CatalogError, SpecError, StoreError
from mofang.units import DeviceRequest, Range


def a_job() -> Job:
    plan = Plan(
        strategy=Strategy(parallelism=Parallelism(dp=2), sharding=Sharding.DDP, threads=2),
        placement=Placement(cluster="local", accelerator="cpu", num_devices=4, num_nodes=1),
        steps=None,
    )
    part = NodeDevices(node="n", accelerator="cpu", indices=(0, 1, 2, 3))
    scenario = Scenario(
        name="x",
        task=Command(argv=("ls",), workers=2),
        resources=Resources(any_of=(DeviceRequest("cpu", Range(2, None)),)),
    )
    allocation = Allocation(cluster="local", nodes=(part,))
    return Job(
        id="j-1",
        name="x",
        scenario=scenario,
        plans=(plan,),
        attempt=Attempt(job_id="j-1", number=1, fence=3, plan_index=0, allocation=allocation, reason=Reason.HANG),
    )


def test_the_degrees_of_parallelism_multiply_to_the_world_size() -> None:
    degrees = Parallelism(dp=2, tp=4, pp=2)
    degrees.check(16)
    with pytest.raises(SpecError, match="2 x 4 x 2 x 1 = 16 != 32") as caught:
        degrees.check(32)
    assert caught.value.hint


@settings(max_examples=50, deadline=None)
@given(*[st.integers(1, 16) for _ in range(4)])
def test_the_world_is_the_product_of_its_degrees(dp: int, tp: int, pp: int, cp: int) -> None:
    degrees = Parallelism(dp=dp, tp=tp, pp=pp, cp=cp)
    assert degrees.world_size == dp * tp * pp * cp
    degrees.check(degrees.world_size)


def test_the_batches_multiply_to_the_global_batch() -> None:
    strategy = Strategy(parallelism=Parallelism(dp=2), sharding=Sharding.FSDP, micro_batch=4, accumulation=3)
    strategy.check_batch(24)
    with pytest.raises(SpecError, match="4 x 3 x 2 = 24 != 32"):
        strategy.check_batch(32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Parallelism(tp=0), "tp must be at least 1, not 0"),
        (lambda: Parallelism(dp=4, ep=3), "4 x 1 x 1 is not a multiple of 3"),
        (lambda: Strategy(parallelism=Parallelism(dp=2)), "dp = 2 needs sharding ddp or fsdp"),
        (lambda: Strategy(micro_batch=0), "micro_batch must be at least 1, not 0"),
        (lambda: Plan(strategy=Strategy(), placement=a_placement(3, 2), steps=1), "evenly over nodes: 3 / 2"),
        (lambda: Plan(strategy=Strategy(), placement=a_placement(2, 1), steps=1), "1 x 1 x 1 x 1 = 1 != 2"),
    ],
)
def test_what_cannot_run_is_refused_with_its_arithmetic(make, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def a_placement(devices: int, nodes: int) -> Placement:
    return Placement(cluster="local", accelerator="H100", num_devices=devices, num_nodes=nodes)


def test_a_worker_may_hold_several_cores() -> None:
    plan = a_job().plans[0]
    assert (plan.workers, plan.placement.devices_per_node) == (2, 4)


def test_a_chip_needs_a_name_and_sizes_that_can_be() -> None:
    for change in ({"name": ""}, {"memory_bytes": -1}):
        row = {"name": "x", "vendor": "v", "memory_bytes": 1, "memory_bandwidth": 1.0, "peak_flops": {}}
        with pytest.raises(CatalogError):
            Accelerator(**(row | change))


def test_values_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        a_job().name = "y"  # type: ignore[misc]


def test_only_three_states_are_final() -> None:
    assert {state for state in JobState if state.is_final} == {JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED}


def test_the_sizes_of_number_formats() -> None:
    assert [Precision.FP32.bytes, Precision.BF16.bytes, Precision.FP8.bytes, Precision.FP4.bytes] == [4, 2, 1, 0.5]
    assert all(precision.bytes > 0 for precision in Precision)


def test_reasons_have_a_precedence() -> None:
    assert sorted(Reason, key=precedence) == list(Reason)
    assert precedence(Reason.NO_SUCH_DEVICE) < precedence(Reason.MEMORY) < precedence(Reason.RESERVED)


def test_every_process_of_an_attempt_carries_its_marker() -> None:
    assert marker("j-1", 2) == "j-1.2"


EVENT = Event(
    job_id="j", attempt=1, generation=2, source="r0", sequence=3, time=4.5, kind=EventKind.STEP, data={"loss": 2}
)
NODE = Node(
    name="n", cluster="c", devices=(Device(index=0, accelerator="cpu"),), cores=1, memory_bytes=5, prefix=("ssh", "h"),
    state=NodeState.DOWN, labels={"rack": "1"},
    rates=HostRates(
        host="n", measured_at=1.0, torch_version="2",
        operators=(
            OperatorRate(
                device="cpu", dtype="fp32", workers=1, threads=2, operator=Operator.LINEAR, phase=Phase.FORWARD,
                shape=(3, 4, 5), seconds=6.0,
            ),
        ),
    ),
)  # fmt: skip
VALUES = [
    a_job(),
    EVENT,
    Fleet(clusters=(Cluster(name="c", backend="local", nodes=(NODE,)),)),
    Rejection(code=Reason.MEMORY, what="8 x H100", need=91e9, have=80e9, data={"a": 1}),
    Range(8, None),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_survives_being_written_and_read(value: object) -> None:
    assert decode(type(value), encode(value)) == value
    assert from_data(type(value), json.loads(json.dumps(to_data(value)))) == value


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"id": 3}', "\x00", encode(a_job()).replace('"waiting"', '"asleep"')]
)
def test_what_is_no_value_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(StoreError, match="not a Job") as caught:
        decode(Job, text)
    assert "\n" not in caught.value.message


def test_a_fleet_knows_all_its_nodes() -> None:
    other = dataclasses.replace(NODE, name="m")
    clusters = (Cluster(name="a", backend="x", nodes=(NODE,)), Cluster(name="b", backend="x", nodes=(other,)))
    assert [node.name for node in Fleet(clusters=clusters).nodes] == ["n", "m"]
