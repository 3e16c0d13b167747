"""A deployment with separate prefill and decode as a plan with its estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mofang.domain.estimate import Evidence, ServiceEstimate
from mofang.domain.plan import Part, Placement, Plan, Role, Service
from mofang.domain.scenario import Goal, Serve
from mofang.matching.serving.deployments import PRECISIONS
from mofang.matching.serving.disaggregated import Divided, rate_of_money_or_power
from mofang.matching.serving.evidence import evidence_of
from mofang.matching.serving.passes import Iteration
from mofang.matching.serving.plans import interval, parallelism, strategy_of
from mofang.matching.serving.sides import Side, alone
from mofang.matching.serving.table import Calibrated, calibrated, load_of, passes_of

__all__ = ["divided_plan"]


def divided_plan(task: Serve, found: Divided) -> Plan:
    """Return the plan; decode is its first part, whose devices ``placement`` and ``strategy`` describe."""
    decode, table = found.decode, found.decode.table
    parts = (_part(Role.DECODE, decode), _part(Role.PREFILL, found.prefill))
    return Plan(
        strategy=strategy_of(table.space, table.cut, decode.row),
        placement=parts[0].placement,
        steps=None,
        parts=parts,
        service=Service(
            replicas=decode.replicas,
            concurrency=max(1, math.ceil(found.batch)),
            precision=PRECISIONS[table.cut.weights[decode.row]],
            kv_precision=PRECISIONS[table.cut.kv[decode.row]],
            attention_dp=bool(table.cut.dp[decode.row] > 1),
            estimate=_estimate(task, found),
        ),
    )


def _part(role: Role, side: Side) -> Part:
    pool = side.table.space.option.pool
    placement = Placement(
        cluster=pool.cluster,
        accelerator=pool.accelerator.name,
        num_devices=side.devices,
        num_nodes=side.nodes,
    )
    cut = parallelism(side.table.cut, side.row)
    return Part(role=role, placement=placement, parallelism=cut, share=1.0, replicas=side.replicas)


def _estimate(task: Serve, found: Divided) -> ServiceEstimate:
    table, row = found.decode.table, found.decode.row
    factors, time = _decode_parts(task, found)
    tokens = found.rate * task.traffic.output.mean
    memory = {part: float(size[row]) for part, size in table.memory.items()}
    price, power = rate_of_money_or_power(found, Goal.COST), rate_of_money_or_power(found, Goal.ENERGY)
    stay = found.ttft + max(task.traffic.output.mean - 1.0, 1.0) * found.tpot
    return ServiceEstimate(
        ttft_s=found.ttft,
        ttft_tail_s=found.ttft_tail,
        tpot_s=found.tpot,
        tpot_tail_s=found.tpot_tail,
        tokens_per_s=tokens,
        requests_per_s=found.rate,
        max_requests_per_s=found.highest,
        concurrency=found.rate * stay,
        kv_tokens=float(table.cache[row]),
        memory_bytes=sum(memory.values()),
        tokens_per_s_90=interval(tokens, *factors.time_sd[0, ::-1]),
        tpot_90=interval(found.tpot, *factors.time_sd[0]),
        ttft_90=interval(found.ttft, *factors.start_sd[0]),
        kept=found.kept if task.level.has_limits else None,
        time=time,
        prefill=_prefill_parts(task, found),
        memory=memory,
        cost_per_million_tokens=None if price is None else price / tokens * 1e6,
        energy_j_per_token=None if power is None else power / tokens,
        evidence=_evidence(task, found),
    )


def _decode_parts(task: Serve, found: Divided) -> tuple[Calibrated, Mapping[str, float]]:
    """Return the calibration at decode's operating point, and one iteration by part."""
    table, row = found.decode.table, found.decode.row
    batch, none = np.array([max(found.batch, 1.0)]), np.zeros(1)
    load = load_of(task.traffic, table.space, batch)
    passes = passes_of(task.model, table.space, table.cut.where(slice(row, row + 1)))
    work = Iteration(decoding=batch, context=load.context, prompt=none, prompts=none, reach=load.input)
    state = replace(alone(load, passes.total(work)), batch=batch)
    factors = calibrated(passes, load, state, table.space, task.model, divided=True)
    slower = float(np.exp(factors.time[0]))
    return factors, {part: float(seconds[0]) * slower for part, seconds in passes.seconds(work).items()}


def _prefill_parts(task: Serve, found: Divided) -> Mapping[str, float]:
    """Return the prompt of mean length by part; together they are what a prefill replica takes for it."""
    table, row = found.prefill.table, found.prefill.row
    none = np.zeros(1)
    load = load_of(task.traffic, table.space, np.ones(1))
    passes = passes_of(task.model, table.space, table.cut.where(slice(row, row + 1)))
    work = Iteration(decoding=none, context=load.context, prompt=load.read, prompts=np.ones(1), reach=load.input)
    parts = {part: float(seconds[0]) for part, seconds in passes.seconds(work).items()}
    scale = found.reading_s / sum(parts.values())
    return {part: seconds * scale for part, seconds in parts.items()}


def _evidence(task: Serve, found: Divided) -> tuple[Evidence, ...]:
    table = found.decode.table
    precision = PRECISIONS[table.cut.weights[found.decode.row]]
    first = evidence_of(task, table.space, precision)
    other = found.prefill.table.space
    return first if other.option.pool is table.space.option.pool else (*first, *evidence_of(task, other, precision))
