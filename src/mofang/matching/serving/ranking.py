"""Which deployments are feasible, and in which order: by the goal, then by fewer devices, then by latency.

Under a service level the goal is divided by the probability that the level is kept: what a deployment costs for each
one of its kind that does what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.scenario import Goal, Scenario, Serve
from mofang.matching.serving.chances import chance_kept
from mofang.matching.serving.space import most_devices
from mofang.matching.serving.table import Table
from mofang.matching.serving.traffic import Operation, at_load, meets, operate

__all__ = ["LEAST_CHANCE", "Ranked", "candidates_of", "goal_values", "nodes_of", "rank"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LEAST_CHANCE = 0.01  # what is less likely to keep its level is not told apart
_SPARE = (1.0, 1.25, 1.5, 2.0)  # replicas tried over those that the rate just needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """Candidates of one table: what they do, their devices and nodes, which fit, keep the level, and their keys."""

    table: Table
    operation: Operation
    devices: Ints
    nodes: Ints
    feasible: Bools
    kept: Floats  # probability that the level is kept
    keys: Floats  # candidates x keys, smaller is better

    def __len__(self) -> int:
        return len(self.operation)


def candidates_of(task: Serve, table: Table) -> tuple[Ints, Ints]:
    """Return rows of the table and numbers of replicas: round numbers, all that there are, and what the rate needs."""
    option, threads = table.space.option, table.space.threads
    most = most_devices(option)
    each = table.cut.devices * threads
    rows, counts = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for row in np.flatnonzero(table.fits):
        highest, lowest = most // each[row], -(-max(option.counts.minimum, 1) // each[row])
        if highest < 1 or lowest > highest:
            continue
        tried = _replicas(task, table, int(row), int(lowest), int(highest))
        if option.counts.maximum is None and task.traffic.rate is None:
            tried = tried[:1]  # without an end, more copies of the same say nothing new
        rows.append(np.full(len(tried), row))
        counts.append(tried)
    return np.concatenate(rows), np.concatenate(counts)


def _replicas(task: Serve, table: Table, row: int, lowest: int, highest: int) -> Ints:
    tried = {lowest, highest, *(size for power in range(11) for size in (1 << power, 3 << power))}
    if task.traffic.rate is not None:
        needed = task.traffic.rate / (0.97 * float(table.requests_per_s[row].max()))
        tried |= {int(np.ceil(needed * spare)) for spare in _SPARE}
    return np.array(sorted(size for size in tried if lowest <= size <= highest), dtype=np.int64)


def nodes_of(table: Table, row: Ints, replicas: Ints) -> tuple[Ints, Ints, Bools]:
    """Return devices, nodes, and whether replicas lie whole in evenly used nodes (or over whole nodes)."""
    node, threads = table.space.option.pool.devices_per_node, table.space.threads
    each = table.cut.devices[row] * threads
    devices = each * replicas
    nodes = -(-devices // node)
    share = devices // nodes
    whole = np.where(each <= node, share % np.minimum(each, node) == 0, each % node == 0)
    return devices, nodes, (devices % nodes == 0) & whole


def rank(scenario: Scenario, task: Serve, table: Table) -> Ranked:
    """Return the candidates of a table with what they do and their keys."""
    row, replicas = candidates_of(task, table)
    devices, nodes, whole = nodes_of(table, row, replicas)
    row, replicas, devices, nodes = row[whole], replicas[whole], devices[whole], nodes[whole]
    wanted = scenario.resources.nodes
    if wanted is not None:
        fits = nodes == wanted
        row, replicas, devices, nodes = row[fits], replicas[fits], devices[fits], nodes[fits]
    operation = operate(table, task.traffic, task.level, row, replicas)
    option = table.space.option
    value, known = goal_values(scenario, task, table, operation, devices)
    kept = _kept(task, table, operation)
    if task.level.has_limits:
        value = value / np.maximum(kept, LEAST_CHANCE)
    keys = np.stack(
        [
            np.full(len(row), option.preference if scenario.resources.ordered else 0, dtype=np.float64),
            np.full(len(row), 0.0 if known else 1.0),
            value,
            devices.astype(np.float64),
            operation.ttft + task.traffic.output.mean * operation.tpot,
        ],
        axis=1,
    )
    return Ranked(
        table=table,
        operation=operation,
        devices=devices,
        nodes=nodes,
        feasible=meets(operation, task.level),
        kept=kept,
        keys=keys,
    )


def _kept(task: Serve, table: Table, found: Operation) -> Floats:
    """Return how likely each candidate keeps its level; at a fixed load, or saturated, it need not keep up."""
    busy = found.in_flight
    spare = found.max_requests_per_s / found.requests_per_s
    return chance_kept(
        task.level,
        ttft=found.ttft_tail,
        tpot=found.tpot_tail,
        spare=spare if task.traffic.rate is not None else np.full(len(found), np.inf),
        start_sd=at_load(table, table.start_sd, found.row, busy),
        time_sd=at_load(table, table.time_sd, found.row, busy),
    )


def goal_values(scenario: Scenario, task: Serve, table: Table, found: Operation, devices: Ints) -> tuple[Floats, bool]:
    """Return what the goal minimises, and whether it is known.

    ``time``: with a service level, device-seconds per output token (what is fast enough need not be faster); without
    one, the mean seconds of a request, or for saturated traffic the seconds of an output token of the whole service.
    ``cost``: price per output token; ``energy``: joules per output token at the chips' rated power. Where the price or
    the power is unknown, device-seconds per token stand in, after all that are known.
    """
    tokens = np.maximum(found.requests_per_s * task.traffic.output.mean, 1e-12)
    each = devices / tokens
    pool = table.space.option.pool
    if scenario.goal is Goal.COST:
        price = pool.price_per_device_hour
        return (each, False) if price is None else (each * price / 3600.0, True)
    if scenario.goal is Goal.ENERGY:
        power = None if pool.is_cpu else pool.accelerator.tdp_w
        return (each, False) if power is None else (each * power, True)
    if task.level.has_limits:
        return each, True
    if task.traffic.rate is None and task.traffic.concurrency is None:
        return 1.0 / tokens, True
    return found.ttft + task.traffic.output.mean * found.tpot, True
