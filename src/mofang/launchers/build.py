"""One attempt of a job as a launch specification. Pure: nothing is read or written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mofang.domain.hardware import Node
from mofang.domain.job import Attempt, Job, NodeDevices
from mofang.domain.launch import LaunchSpec, NodeLaunch
from mofang.domain.plan import Plan
from mofang.domain.scenario import Command, Environment, Scenario, WorkdirMode
from mofang.errors import BackendError, SpecError
from mofang.launchers.program import OWN, Program
from mofang.launchers.programs import worker_program

__all__ = ["launch_spec"]


def launch_spec(
    *,
    job: Job,
    plan: Plan,
    attempt: Attempt,
    nodes: Mapping[str, Node],
    home: Path,
    wake: tuple[str, ...],
    wake_socket: str,
) -> LaunchSpec:
    """Return everything needed to start one attempt.

    Args:
        job: the job; its scenario says what runs.
        plan: the plan that the attempt follows.
        attempt: the allocation.
        nodes: the nodes of the allocation by name, for their addresses.
        home: Mofang's home; the run directory and the token files lie in it.
        wake: what an agent executes when it finds no controller.
        wake_socket: where a live controller listens.

    Raises:
        BackendError: a node of the allocation is not known any more.
        SpecError: no launcher writes this plan's command, or it cannot go on with fewer nodes; it says why.
        InfeasibleError: the plan has several parts.
    """
    run_dir = home / "runs" / job.id
    scenario = job.scenario
    _check_fewer(scenario, plan)
    program = worker_program(scenario, plan, run_dir / f"attempt-{attempt.number:04d}")
    return LaunchSpec(
        job_id=job.id,
        attempt=attempt.number,
        fence=attempt.fence,
        run_dir=str(run_dir),
        nodes=tuple(
            _node(part, nodes, plan, program, spare=index >= plan.placement.num_nodes)
            for index, part in enumerate(attempt.allocation.nodes)
        ),
        argv=program.argv,
        env={"MOFANG_DATA_DIR": str(home / "data"), **program.env},
        files=program.files,
        secrets_file=str(home / "secrets" / f"{job.id}.json") if scenario.environment.secrets else None,
        environment=scenario.environment,
        workdir=_workdir(scenario.environment, run_dir),
        restart=scenario.restart,
        grace_s=scenario.grace_s,
        wake=wake,
        wake_socket=wake_socket,
    )


def _check_fewer(scenario: Scenario, plan: Plan) -> None:
    """Refuse to go on with fewer nodes what is written for one number of them."""
    elastic = isinstance(scenario.task, Command) or plan.strategy.framework in OWN
    if scenario.restart.min_nodes is None or elastic or plan.placement.num_nodes == 1:
        return
    raise SpecError(
        f"restart.min_nodes: what {plan.strategy.framework} starts cannot go on with fewer nodes than it began with",
        hint="leave min_nodes out, and keep spare_nodes instead",
    )


def _node(part: NodeDevices, nodes: Mapping[str, Node], plan: Plan, program: Program, *, spare: bool) -> NodeLaunch:
    node = nodes.get(part.node)
    if node is None:
        raise BackendError(f"node {part.node} is not there any more", hint="mofang doctor shows the nodes")
    return NodeLaunch(
        node=part.node,
        address=node.address,
        prefix=node.prefix,
        accelerator=part.accelerator,
        device_indices=part.indices,
        workers=program.copies if program.one_per_node else len(part.indices) // plan.strategy.threads,
        domain=node.domain,
        spare=spare,
    )


def _workdir(environment: Environment, run_dir: Path) -> str | None:
    """Return where workers start; an uploaded directory lies in the run directory."""
    if environment.workdir is not None and environment.workdir_mode is WorkdirMode.UPLOAD:
        return str(run_dir / "workdir")
    return environment.workdir
