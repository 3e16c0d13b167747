"""A few candidates, taken out of the columns and made plans with their estimates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.domain.estimate import Estimate, Evidence, Interval
from mofang.domain.hardware import Pool, Precision
from mofang.domain.plan import Placement, Plan
from mofang.domain.scenario import Goal, Scenario
from mofang.domain.strategy import Method, Parallelism, Strategy
from mofang.matching.calibration import NORMAL_90
from mofang.matching.candidates import METHODS, OFFLOADS, PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.correction import interval, nearest_evidence
from mofang.matching.curves import curves_of
from mofang.matching.evaluation import Evaluated
from mofang.matching.goodput import goodput_evidence, losses
from mofang.matching.headroom import is_tight, memory_error
from mofang.matching.memory import host_bytes
from mofang.matching.totals import device_limit
from mofang.matching.unmeasured import unmeasured, untried_deviation
from mofang.matching.work import Work
from mofang.matching.workers import is_measured
from mofang.units import show_bytes

__all__ = ["Known", "build_plans", "estimate_of", "known_of", "model_flops", "placement_of", "strategy_of"]

Floats = NDArray[np.float64]


def strategy_of(candidates: Candidates, row: int, framework: Framework) -> Strategy:
    """Return the strategy of one row."""
    degrees = {name: int(getattr(candidates, name)[row]) for name in ("dp", "tp", "pp", "cp", "ep", "vpp")}
    return Strategy(
        framework=framework.name,
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


def build_plans(scenario: Scenario, found: Evaluated) -> list[Plan]:
    """Return the plans of all rows; meant for few."""
    known = known_of(found)
    return [
        Plan(
            strategy=strategy_of(found.candidates, row, found.unit.framework),
            placement=placement_of(scenario, found, row),
            steps=int(found.totals.steps[row]),
            estimate=estimate_of(scenario, found, row, known),
        )
        for row in range(len(found.candidates))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What measurements say of some rows: the ends of their intervals as factors, and what was measured nearest.

    That is asked of the first row: the others differ in layout only.
    """

    low: Floats
    high: Floats
    nearest: tuple[Evidence, ...]


def known_of(found: Evaluated) -> Known:
    """Return what measurements say of all rows."""
    unit = found.unit
    low, high = interval(unit.work, unit.option, unit.framework, found.candidates)
    untried = np.array([untried_deviation() ** 2 * len(_unmeasured(found, row)) for row in range(len(low))])
    low = np.exp(-np.sqrt(np.log(low) ** 2 + NORMAL_90**2 * untried))
    high = np.exp(np.sqrt(np.log(high) ** 2 + NORMAL_90**2 * untried))
    first = found.candidates.where(slice(0, 1))
    return Known(low=low, high=high, nearest=nearest_evidence(unit.work, unit.option, unit.framework, first))


def placement_of(scenario: Scenario, found: Evaluated, row: int) -> Placement:
    """Return where one row runs."""
    pool, one = found.pool, found.candidates.where(slice(row, row + 1))
    memory = host_bytes(found.unit.memory_work, pool, one, found.memory_bytes[[row]])[0]
    return Placement(
        cluster=pool.cluster,
        accelerator=pool.accelerator.name,
        num_devices=int(one.devices[0]),
        num_nodes=int(one.nodes[0]),
        node_memory_bytes=int(max(memory, scenario.resources.memory_bytes or 0)),
    )


def estimate_of(scenario: Scenario, found: Evaluated, row: int, known: Known) -> Estimate:
    """Return the estimate of one row."""
    work, estimates, total = found.unit.work, found.estimates, found.totals
    factor, step = float(found.factor[row]), float(total.step[row])
    tokens = work.global_batch * work.sequence * work.useful
    peak = float(estimates.peak_flops[row])
    return Estimate(
        step_time_s=step,
        step_time_90=Interval(low=step * float(known.low[row]), high=step * float(known.high[row])),
        tokens_per_s=tokens / step,
        mfu=model_flops(work, METHODS[found.candidates.method[row]]) * tokens / step / peak,
        memory_bytes=float(found.memory_bytes[row]),
        memory_limit_bytes=device_limit(found.pool) or None,
        tight=bool(is_tight(found.memory_bytes[[row]], device_limit(found.pool))[0]),
        unmeasured=_unmeasured(found, row),
        peak_flops=peak,
        total_time_s=float(total.seconds[row]),
        time={part: factor * float(seconds[row]) for part, seconds in estimates.time.items()},
        memory={part: float(size[row]) for part, size in found.memory.items()},
        energy_j=None if total.energy_j is None else float(total.energy_j[row]),
        cost=None if total.cost is None else float(total.cost[row]),
        evidence=_evidence(scenario, found, row, known),
        goodput=float(total.goodput[row]),
    )


def model_flops(work: Work, method: Method) -> float:
    """Return the FLOP that a token of training takes by the model's definition: frozen weights get no gradients."""
    whole = work.model.train_flops_per_token(work.sequence)
    return whole if method is Method.FULL else whole - 2.0 * work.model.matmul_params


def _unmeasured(found: Evaluated, row: int) -> tuple[str, ...]:
    """Return what of one row nobody has measured; on cores, everything was measured or nothing."""
    if found.pool.is_cpu:
        return ()
    return unmeasured(strategy_of(found.candidates, row, found.unit.framework))


def _evidence(scenario: Scenario, found: Evaluated, row: int, known: Known) -> tuple[Evidence, ...]:
    pool, total, one = found.pool, found.totals, found.candidates.where(slice(row, row + 1))
    rows = [_speed_evidence(pool)]
    if int(one.workers[0]) > 1:
        rows.append(_link_evidence(pool, nodes=int(one.nodes[0])))
    rows += known.nearest
    rows += _sure_evidence(found, row)
    rows += _lost_evidence(found, row, one)
    rows += _quality_evidence(scenario, found, one)
    if total.energy_j is not None:
        rows.append(
            Evidence(
                what="energy: chips at idle power while they wait, at rated power while they compute; hosts, network "
                "and cooling are not counted",
                source=pool.accelerator.source or "catalogue",
            )
        )
    if total.cost is None and (scenario.limits.budget is not None or scenario.goal is Goal.COST):
        rows.append(Evidence(what="cost: unknown, no price is given, so no budget is checked", source="price list"))
    return tuple(rows)


def _speed_evidence(pool: Pool) -> Evidence:
    if pool.rates is not None and is_measured(pool):
        count = len(pool.rates.operators)
        return Evidence(
            what=f"compute: {count} operator timings interpolated over size", source=f"probe of host {pool.rates.host}"
        )
    if pool.is_cpu:
        return Evidence(what="compute: assumed for a core nobody has probed", source="run `mofang doctor`")
    return Evidence(what=f"compute: {curves_of(pool.accelerator).basis}", source=pool.accelerator.source or "catalogue")


def _link_evidence(pool: Pool, *, nodes: int) -> Evidence:
    if pool.is_cpu and pool.rates is not None and pool.rates.collectives and nodes == 1:
        return Evidence(what="communication: collectives timed on the host", source=f"probe of host {pool.rates.host}")
    where = "between nodes" if nodes > 1 else "inside the node"
    return Evidence(
        what=f"communication: latency and bandwidth of the links {where}",
        source=f"links of the pool and {pool.accelerator.source or 'the catalogue'}",
    )


def _sure_evidence(found: Evaluated, row: int) -> Iterator[Evidence]:
    """Yield what of the plan is unsure beyond its speed: what nobody measured, and memory near the limit."""
    for what in _unmeasured(found, row):
        yield Evidence(
            what=f"no measurement with {what} is known for {found.unit.framework.name}: its cost is the model's own, "
            "and the interval is wider for it",
            source="none",
        )
    need, limit = float(found.memory_bytes[row]), device_limit(found.pool)
    if is_tight(np.array([need]), limit)[0]:
        yield Evidence(
            what=f"memory is tight: {show_bytes(need)} of {show_bytes(limit)} is within what such predictions are off "
            f"by (typically {memory_error():.0%}); have a plan with more room at hand",
            source="published memory figures, each source left out",
        )


def _lost_evidence(found: Evaluated, row: int, one: Candidates) -> list[Evidence]:
    total = found.totals
    lost = losses(
        found.unit.work,
        found.pool,
        devices=one.devices,
        nodes=one.nodes,
        step=total.step[[row]],
        run=total.seconds[[row]] * total.goodput[[row]],
    )
    evidence = goodput_evidence(found.pool, lost, int(one.devices[0]), float(total.seconds[row]))
    return [] if evidence is None else [evidence]


_METHODS = {
    Method.FULL: "all weights are trained",
    Method.LORA: "low-rank adapters are trained: less capacity to learn than training all weights",
    Method.QLORA: "low-rank adapters over weights kept in 4 bits: as LoRA, and the weights are rounded",
}
_METHOD_SOURCES = {
    Method.FULL: "arXiv:2405.09673 compares both",
    Method.LORA: "arXiv:2106.09685; arXiv:2405.09673 compares it with full fine-tuning",
    Method.QLORA: "arXiv:2305.14314",
}


def _quality_evidence(scenario: Scenario, found: Evaluated, one: Candidates) -> list[Evidence]:
    """Say what differs in the result, where the choice was not the user's: ranks compare time, cost and energy only."""
    work, rows = found.unit.work, []
    method = METHODS[one.method[0]]
    framework = found.unit.framework
    if method not in framework.launches.get(scenario.task.kind, frozenset()):
        rows.append(
            Evidence(
                what=f"no launcher: Mofang writes no command for {framework.name} here; the plan is to compare with",
                source="the table of frameworks",
            )
        )
    if len(work.methods) > 1:
        rows.append(
            Evidence(
                what=f"method {method.value}: {_METHODS[method]}; the ranking does not weigh quality",
                source=_METHOD_SOURCES[method],
            )
        )
    if PRECISIONS[one.precision[0]] is Precision.FP8 and work.strategy.precision is None:
        rows.append(
            Evidence(
                what="precision fp8: products are rounded more than in bf16, which training has to tolerate; ask for "
                "precision bf16 to rule it out",
                source="arXiv:2209.05433; arXiv:2412.19437 section 3.3 trains a large model so",
            )
        )
    if work.useful < 1.0:
        rows.append(
            Evidence(
                what=f"lengths: {work.useful:.0%} of the tokens computed are data, the rest is padding",
                source="the distribution of lengths in the scenario; best-fit packing as arXiv:2404.10830",
            )
        )
    return rows
