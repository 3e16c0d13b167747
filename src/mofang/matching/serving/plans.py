"""One deployment, taken out of the columns and made a plan with its estimate."""

from __future__ import annotations

import numpy as np

from mofang.domain.estimate import Interval, ServiceEstimate
from mofang.domain.plan import Placement, Plan, Service
from mofang.domain.scenario import Serve
from mofang.domain.strategy import Parallelism, Sharding, Strategy
from mofang.matching.serving.capacity import token_bytes
from mofang.matching.serving.deployments import PRECISIONS, Deployments
from mofang.matching.serving.evidence import evidence_of
from mofang.matching.serving.passes import Iteration
from mofang.matching.serving.ranking import Ranked
from mofang.matching.serving.space import Space
from mofang.matching.serving.steady import closed_loop
from mofang.matching.serving.table import calibrated, load_of, passes_of

__all__ = ["NORMAL_90", "build_plan", "interval", "parallelism", "strategy_of"]

NORMAL_90 = 1.6448536269514722  # standard deviations on either side of a 90 % interval


def parallelism(cut: Deployments, row: int) -> Parallelism:
    """Return one row's parallelism as engines count it: with attention copied, tp is over all devices of a stage."""
    width = int(cut.tp[row] * cut.dp[row])
    return Parallelism(tp=width, pp=int(cut.pp[row]), ep=int(cut.ep[row]))


def strategy_of(space: Space, cut: Deployments, row: int) -> Strategy:
    """Return the strategy of one row of a space."""
    return Strategy(
        framework=space.framework.name,
        parallelism=parallelism(cut, row),
        sharding=Sharding.NONE,
        precision=PRECISIONS[cut.weights[row]],
        threads=space.threads,
    )


def build_plan(task: Serve, found: Ranked, index: int) -> Plan:
    """Return the plan of one candidate."""
    table, operation = found.table, found.operation
    space, row = table.space, int(operation.row[index])
    replicas = int(operation.replicas[index])
    pool = space.option.pool
    memory = table.memory["weights"][row] if pool.is_cpu else 0.0
    return Plan(
        strategy=strategy_of(space, table.cut, row),
        placement=Placement(
            cluster=pool.cluster,
            accelerator=pool.accelerator.name,
            num_devices=int(found.devices[index]),
            num_nodes=int(found.nodes[index]),
            node_memory_bytes=int(memory),
        ),
        steps=None,
        service=Service(
            replicas=replicas,
            concurrency=max(1, int(operation.limit[index])),
            precision=PRECISIONS[table.cut.weights[row]],
            kv_precision=PRECISIONS[table.cut.kv[row]],
            attention_dp=bool(table.cut.dp[row] > 1),
            estimate=_estimate(task, found, index),
        ),
    )


def interval(value: float, below: float, above: float) -> Interval:
    """Return the 90 % interval of a figure whose logarithm has these standard deviations below and above."""
    return Interval(low=value * float(np.exp(-NORMAL_90 * below)), high=value * float(np.exp(NORMAL_90 * above)))


def _estimate(task: Serve, found: Ranked, index: int) -> ServiceEstimate:
    table, operation = found.table, found.operation
    space, row = table.space, int(operation.row[index])
    one = table.cut.where(slice(row, row + 1))
    served = np.array([min(max(operation.in_flight[index], 1.0), table.most[row])])
    load = load_of(task.traffic, space, served)
    passes = passes_of(task.model, space, one)
    state = closed_loop(passes, load, served)
    factors = calibrated(passes, load, state, space, task.model)
    zero = np.zeros(1)
    decode = passes.seconds(
        Iteration(decoding=state.batch, context=load.context, prompt=zero, prompts=zero, reach=load.input)
    )
    prefill = passes.seconds(
        Iteration(decoding=zero, context=load.context, prompt=load.read, prompts=np.ones(1), reach=load.input)
    )
    tokens = float(operation.requests_per_s[index]) * task.traffic.output.mean
    ttft, tpot = float(operation.ttft[index]), float(operation.tpot[index])
    memory = {part: float(size[row]) for part, size in table.memory.items()}
    memory["cache"] = _cache_bytes(task, found, row, float(served[0]))
    devices = int(found.devices[index])
    pool = space.option.pool
    price, power = pool.price_per_device_hour, None if pool.is_cpu else pool.accelerator.tdp_w
    return ServiceEstimate(
        ttft_s=ttft,
        ttft_tail_s=float(operation.ttft_tail[index]),
        tpot_s=tpot,
        tpot_tail_s=float(operation.tpot_tail[index]),
        tokens_per_s=tokens,
        requests_per_s=float(operation.requests_per_s[index]),
        max_requests_per_s=float(operation.max_requests_per_s[index]),
        concurrency=float(operation.in_flight[index] * operation.replicas[index]),
        kv_tokens=float(table.cache[row]),
        memory_bytes=sum(memory.values()),
        tokens_per_s_90=interval(tokens, *factors.time_sd[0, ::-1]),
        tpot_90=interval(tpot, *factors.time_sd[0]),
        ttft_90=interval(ttft, *factors.start_sd[0]),
        kept=float(found.kept[index]) if task.level.has_limits else None,
        time={part: float(seconds[0] * np.exp(factors.time[0])) for part, seconds in decode.items()},
        prefill={part: float(seconds[0] * np.exp(factors.start[0])) for part, seconds in prefill.items()},
        memory=memory,
        cost_per_million_tokens=None if price is None else devices * price / 3600.0 / tokens * 1e6,
        energy_j_per_token=None if power is None else devices * power / tokens,
        evidence=evidence_of(task, space, PRECISIONS[table.cut.weights[row]]),
    )


def _cache_bytes(task: Serve, found: Ranked, row: int, requests: float) -> float:
    """Return the bytes of cache that the fullest device holds for the requests served: never more than it has."""
    table = found.table
    tokens = min(requests * (task.traffic.input.mean + task.traffic.output.mean), float(table.cache[row]))
    return tokens / float(table.cut.dp[row]) * token_bytes(task.model, table.cut, row)
