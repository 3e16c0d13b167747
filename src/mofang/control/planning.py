"""Plans on request, and what a plan would write and execute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.control.address import socket_path
from mofang.control.experience import OwnMeasurements
from mofang.control.fleet import FleetWatch
from mofang.control.pools import described_pools, fleet_pools
from mofang.control.queue import BuildLaunch, wake_words
from mofang.domain.job import Allocation, Attempt, Job
from mofang.domain.plan import MatchResult, Plan
from mofang.domain.scenario import Scenario
from mofang.errors import InfeasibleError
from mofang.units import DeviceRequest

if TYPE_CHECKING:
    from mofang.backends.protocol import Artefact
    from mofang.domain.hardware import Node, Pool

__all__ = ["make_plans", "render_plan"]


def make_plans(
    scenario: Scenario,
    hardware: Sequence[DeviceRequest] | None,
    num_plans: int,
    fleet: FleetWatch,
    home: Path,
    *,
    own: OwnMeasurements,
    pools: Sequence[Pool] | None = None,
    explain: bool = False,
) -> MatchResult:
    """Rank plans for these pools, else for described hardware, else for the fleet; ``explain``: vary the best one too.

    What the user measured himself (``own``) weighs most in the predictions for his hardware.

    Raises:
        CatalogError: the hardware is not in the catalogue, or a row of the user's catalogue is wrong.
    """
    from mofang.catalog.knowledge import Catalog  # noqa: PLC0415 - matching and its tables only where a plan is asked for
    from mofang.matching import match, sensitivities  # noqa: PLC0415

    catalog = Catalog.load(home / "catalog")
    if pools is None:
        pools = fleet_pools(fleet.nodes, catalog) if hardware is None else described_pools(hardware, catalog)
    known = own.experience(fleet.nodes, catalog)
    result = match(scenario, pools, num_plans=num_plans, known=known)
    if not explain or not result.plans:
        return result
    return replace(result, sensitivities=sensitivities(scenario, pools, result.plans[0], known))


def render_plan(
    scenario: Scenario, plan: Plan, fleet: FleetWatch, home: Path, build: BuildLaunch
) -> tuple[Artefact, ...]:
    """Return exactly what starting this plan would write and execute, if nothing else ran.

    Raises:
        InfeasibleError: the plan does not fit the fleet.
    """
    nodes = fleet.nodes
    allocation = _place(plan, nodes, scenario.restart.spare_nodes)
    backend = fleet.backend_of(allocation.cluster)
    if backend is None:
        raise InfeasibleError(f"no backend has the cluster {allocation.cluster!r}")
    job = Job(id="0" * 12, name=scenario.name, scenario=scenario, plans=(plan,))
    spec = build(
        job=job,
        plan=plan,
        attempt=Attempt(job_id=job.id, number=1, fence=1, plan_index=0, allocation=allocation),
        nodes={node.name: node for node in nodes},
        home=home,
        wake=wake_words(home),
        wake_socket=str(socket_path(home)),
    )
    return backend.render(spec)


def _place(plan: Plan, nodes: Sequence[Node], spare_nodes: int) -> Allocation:
    from mofang.scheduling.decide import decide  # noqa: PLC0415 - numpy
    from mofang.scheduling.view import View, WaitingJob  # noqa: PLC0415

    job = WaitingJob(id="render", submitted_at=0.0, plans=(plan,), spare_nodes=spare_nodes)
    decision = decide(View.build(nodes, [], [job]), 0.0)
    for start in decision.starts:
        return start.allocation
    wait = decision.waits[0]
    raise InfeasibleError(wait.message, hint="plan for the fleet: leave --hardware out", data={"reason": wait.reason})
