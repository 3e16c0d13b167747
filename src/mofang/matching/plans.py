"""One candidate, taken out of the columns and made a plan with its estimate."""

from __future__ import annotations

from mofang.domain.estimate import Estimate, Evidence, Interval
from mofang.domain.hardware import Pool
from mofang.domain.plan import Placement, Plan
from mofang.domain.scenario import Goal, Scenario
from mofang.domain.strategy import Parallelism, Strategy
from mofang.matching.candidates import METHODS, OFFLOADS, PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.coefficients import coefficients
from mofang.matching.memory import host_bytes
from mofang.matching.totals import Evaluated
from mofang.matching.workers import is_measured

__all__ = ["build_plan", "strategy_of"]


def strategy_of(candidates: Candidates, row: int) -> Strategy:
    """Return the strategy of one row."""
    degrees = {name: int(getattr(candidates, name)[row]) for name in ("dp", "tp", "pp", "cp", "ep", "vpp")}
    return Strategy(
        parallelism=Parallelism(**degrees),
        sharding=SHARDINGS[candidates.sharding[row]],
        precision=PRECISIONS[candidates.precision[row]],
        recompute=RECOMPUTES[candidates.recompute[row]],
        micro_batch=int(candidates.micro_batch[row]),
        accumulation=int(candidates.accumulation[row]),
        threads=int(candidates.threads[row]),
        compile=bool(candidates.compile[row]),
        method=METHODS[candidates.method[row]],
        offload=OFFLOADS[candidates.offload[row]],
    )


def build_plan(scenario: Scenario, found: Evaluated, row: int) -> Plan:
    """Return the plan of one row."""
    candidates, pool = found.candidates, found.pool
    one = candidates.where(slice(row, row + 1))
    memory = host_bytes(found.task, pool, one, found.estimates.memory_bytes[[row]])[0]
    return Plan(
        strategy=strategy_of(candidates, row),
        placement=Placement(
            cluster=pool.cluster,
            accelerator=pool.accelerator.name,
            num_devices=int(candidates.devices[row]),
            num_nodes=int(candidates.nodes[row]),
            node_memory_bytes=int(max(memory, scenario.resources.memory_bytes or 0)),
        ),
        steps=int(found.totals.steps[row]),
        estimate=_estimate(scenario, found, row),
    )


def _estimate(scenario: Scenario, found: Evaluated, row: int) -> Estimate:
    task, estimates, total = found.task, found.estimates, found.totals
    step = float(estimates.step_time[row])
    tokens = task.global_batch * task.sequence
    peak = float(estimates.peak_flops[row])
    low, high = coefficients().interval[_confidence(found.pool)]
    return Estimate(
        step_time_s=step,
        step_time_90=Interval(low=step * low, high=step * high),
        tokens_per_s=tokens / step,
        mfu=task.model.train_flops_per_token(task.sequence) * tokens / step / peak,
        memory_bytes=float(estimates.memory_bytes[row]),
        peak_flops=peak,
        total_time_s=float(total.seconds[row]),
        time={part: float(seconds[row]) for part, seconds in estimates.time.items()},
        memory={part: float(size[row]) for part, size in estimates.memory.items()},
        energy_j=None if total.energy_j is None else float(total.energy_j[row]),
        cost=None if total.cost is None else float(total.cost[row]),
        evidence=_evidence(scenario, found, row),
    )


def _confidence(pool: Pool) -> str:
    if is_measured(pool):
        return "measured"
    return "known" if not pool.is_cpu and coefficients().matmul_efficiency(pool.accelerator).known else "unknown"


def _evidence(scenario: Scenario, evaluated: Evaluated, row: int) -> tuple[Evidence, ...]:
    pool, total = evaluated.pool, evaluated.totals
    found = [_speed_evidence(pool)]
    if int(evaluated.candidates.dp[row]) > 1:
        found.append(_link_evidence(pool, nodes=int(evaluated.candidates.nodes[row])))
    if total.energy_j is not None:
        found.append(
            Evidence(
                what="energy: the chips' rated power over the whole run; hosts, network and cooling are not counted",
                source=pool.accelerator.source or "catalogue",
            )
        )
    if total.cost is None and (scenario.limits.budget is not None or scenario.goal is Goal.COST):
        found.append(Evidence(what="cost: unknown, no price is given, so no budget is checked", source="price list"))
    return tuple(found)


def _speed_evidence(pool: Pool) -> Evidence:
    if pool.rates is not None and is_measured(pool):
        count = len(pool.rates.operators)
        return Evidence(
            what=f"compute: {count} operator timings interpolated over size", source=f"probe of host {pool.rates.host}"
        )
    if pool.is_cpu:
        return Evidence(what="compute: assumed for a core nobody has probed", source="run `mofang doctor`")
    known = coefficients().matmul_efficiency(pool.accelerator)
    basis = "its family's published kernel timings" if known.known else "no timing of its family: a cautious default"
    return Evidence(
        what=f"compute: {known.large:.0%} of dense peak for large products ({basis})",
        source=pool.accelerator.source or "catalogue",
    )


def _link_evidence(pool: Pool, *, nodes: int) -> Evidence:
    if pool.is_cpu and pool.rates is not None and pool.rates.collectives and nodes == 1:
        return Evidence(what="communication: collectives timed on the host", source=f"probe of host {pool.rates.host}")
    kind = "cpu" if pool.is_cpu else "accelerator"
    good, hidden = coefficients().link_efficiency, coefficients().overlap[kind]
    where = "between nodes" if nodes > 1 else "inside the node"
    return Evidence(
        what=f"communication: alpha-beta over links {where}, {good:.0%} of their bandwidth, {hidden:.0%} overlapped",
        source=f"links of the pool and {pool.accelerator.source or 'the catalogue'}",
    )
