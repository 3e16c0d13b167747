"""Builders and twins for tests, of Mofang and of programs that use it.

Example:
    >>> from mofang.testing import a_node, a_scenario, a_plan
    >>> a_plan(devices=2).workers
    2
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mofang.backends.memory import MemoryBackend, Run, Script
from mofang.clock import ManualClock
from mofang.domain.hardware import CPU, Cluster, Device, Fleet, Node
from mofang.domain.job import Allocation, Attempt, Job, NodeDevices
from mofang.domain.launch import LaunchSpec, NodeLaunch
from mofang.domain.plan import Placement, Plan
from mofang.domain.scenario import Command, Scenario
from mofang.domain.strategy import Parallelism, Sharding, Strategy

__all__ = [
    "ManualClock",
    "MemoryBackend",
    "Run",
    "Script",
    "a_fleet",
    "a_job",
    "a_node",
    "a_plan",
    "a_scenario",
    "an_attempt",
    "simple_launch",
]


def a_node(name: str = "node-0", *, cluster: str = "memory", cores: int = 4, memory_bytes: int = 16 * 10**9) -> Node:
    """Return a host without chips."""
    devices = tuple(Device(index=index, accelerator=CPU) for index in range(cores))
    return Node(name=name, cluster=cluster, devices=devices, cores=cores, memory_bytes=memory_bytes)


def a_fleet(*nodes: Node, backend: str = "memory") -> Fleet:
    """Return a fleet of these nodes, or of one."""
    members = nodes or (a_node(),)
    names = dict.fromkeys(node.cluster for node in members)
    clusters = (tuple(node for node in members if node.cluster == name) for name in names)
    return Fleet(clusters=tuple(Cluster(name=part[0].cluster, backend=backend, nodes=part) for part in clusters))


def a_scenario(
    name: str = "job", *, argv: tuple[str, ...] = ("true",), workers: int = 1, priority: int = 0
) -> Scenario:
    """Return a scenario that runs a program."""
    return Scenario(name=name, task=Command(argv=argv, workers=workers), priority=priority)


def a_plan(*, cluster: str = "memory", devices: int = 1, nodes: int = 1, steps: int | None = None) -> Plan:
    """Return a plan for cores, one worker on each."""
    sharding = Sharding.DDP if devices > 1 else Sharding.NONE
    return Plan(
        strategy=Strategy(framework="command", parallelism=Parallelism(dp=devices), sharding=sharding),
        placement=Placement(cluster=cluster, accelerator=CPU, num_devices=devices, num_nodes=nodes),
        steps=steps,
    )


def an_attempt(job_id: str = "0" * 12, *, number: int = 1, fence: int = 1, node: str = "node-0") -> Attempt:
    """Return an attempt on the first core of one node."""
    held = NodeDevices(node=node, accelerator=CPU, indices=(0,))
    allocation = Allocation(cluster="memory", nodes=(held,))
    return Attempt(job_id=job_id, number=number, fence=fence, plan_index=0, allocation=allocation)


def a_job(job_id: str = "0" * 12, *, scenario: Scenario | None = None, plans: tuple[Plan, ...] = ()) -> Job:
    """Return a waiting job."""
    chosen = scenario or a_scenario()
    return Job(id=job_id, name=chosen.name, scenario=chosen, plans=plans or (a_plan(),), user="tester", key=job_id)


def simple_launch(
    *,
    job: Job,
    plan: Plan,
    attempt: Attempt,
    nodes: Mapping[str, Node],
    home: Path,
    wake: tuple[str, ...],
    wake_socket: str,
) -> LaunchSpec:
    """Return a launch that the memory twin understands, for any plan."""
    del plan
    parts = tuple(
        NodeLaunch(
            node=held.node,
            address=nodes[held.node].address,
            prefix=nodes[held.node].prefix,
            accelerator=held.accelerator,
            device_indices=held.indices,
            workers=len(held.indices),
        )
        for held in attempt.allocation.nodes
    )
    argv = job.scenario.task.argv if isinstance(job.scenario.task, Command) else ("train",)
    return LaunchSpec(
        job_id=job.id,
        attempt=attempt.number,
        fence=attempt.fence,
        run_dir=str(home / "runs" / job.id),
        nodes=parts,
        argv=argv,
        wake=wake,
        wake_socket=wake_socket,
    )
