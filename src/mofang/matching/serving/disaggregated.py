"""Separate prefill and decode in the search: which replicas of which chips for each, matched in rate.

The number of prefill replicas is the smallest whose prompts a second keep up with the decode replicas (rate matching,
DistServe, arXiv:2401.09670, section 4); the cache of each prompt travels over the slower of the two networks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mofang.domain.scenario import Goal, Scenario, Serve, Traffic
from mofang.matching.serving.chances import chance_kept
from mofang.matching.serving.queueing import erlang_c, tail_wait, waiting_mgc
from mofang.matching.serving.ranking import LEAST_CHANCE
from mofang.matching.serving.sides import Readers, Side, Writers, readers, writers
from mofang.matching.serving.space import most_devices
from mofang.matching.serving.table import Table
from mofang.matching.serving.traffic import variation

__all__ = ["Divided", "divide", "rate_of_money_or_power"]

Floats = NDArray[np.float64]

_BUSY = 0.85  # of the prefill replicas, so that prompts do not queue without end


@dataclass(frozen=True, slots=True, kw_only=True)
class Divided:
    """One deployment with separate prefill and decode; ``batch`` requests decode together on one replica."""

    prefill: Side
    decode: Side
    batch: float
    rate: float  # requests/s of the whole
    highest: float
    ttft: float
    ttft_tail: float
    tpot: float
    tpot_tail: float
    reading_s: float
    kept: float  # probability that the level is kept
    keys: tuple[float, ...] = ()

    @property
    def devices(self) -> int:
        """Devices of both sides."""
        return self.prefill.devices + self.decode.devices


def divide(scenario: Scenario, task: Serve, tables: Sequence[Table]) -> tuple[Divided, ...]:
    """Return the feasible deployments with separate prefill and decode, of any two of the tables' chips of one vendor.

    No engine hands caches over between chips of two vendors.
    """
    able = [table for table in tables if table.space.framework.disaggregated and not table.space.option.pool.is_cpu]
    first, second = [readers(task, table) for table in able], [writers(task, table) for table in able]
    found: list[Divided] = []
    for one, other in itertools.product(first, second):
        here, there = one.table.space, other.table.space
        vendors = {space.option.pool.accelerator.vendor for space in (here, there)}
        if here.framework is there.framework and len(vendors) == 1:
            found += _pairs(scenario, task, one, other)
    return tuple(found)


def _pairs(scenario: Scenario, task: Serve, first: Readers, second: Writers) -> Iterator[Divided]:
    for reader, writer in itertools.product(first.rows.tolist(), range(len(second.rows))):
        row = int(second.rows[writer])
        here, there = first.table.cut, second.table.cut
        # One checkpoint serves both sides, and the cache travels in one format.
        if here.weights[reader] != there.weights[row] or here.kv[reader] != there.kv[row]:
            continue
        for decoders in _counts(task, second, writer):
            decode = Side(table=second.table, row=row, replicas=decoders)
            one = _matched(task, first, reader, (second, writer), decode)
            if one is not None and _has_room(one):
                yield replace(one, keys=_keys(scenario, task, one))


def _steps(traffic: Traffic) -> float:
    return max(traffic.output.mean - 1.0, 1.0)


def _counts(task: Serve, second: Writers, writer: int) -> tuple[int, ...]:
    """Return numbers of decode replicas to try: what the traffic needs, or round numbers that the pool has."""
    traffic = task.traffic
    each = float(second.batch[writer]) / (_steps(traffic) * float(second.seconds[writer]))
    if traffic.rate is not None:
        return (max(1, math.ceil(traffic.rate / each)),)
    if traffic.concurrency is not None:
        return (max(1, round(traffic.concurrency / float(second.batch[writer]))),)
    most = most_devices(second.table.space.option) // int(second.table.cut.devices[second.rows[writer]])
    return tuple(1 << power for power in range(11) if 1 << power <= most)


def _matched(task: Serve, first: Readers, reader: int, writer: tuple[Writers, int], decode: Side) -> Divided | None:
    """Return the deployment with just enough prefill replicas; None where it misses the service level."""
    traffic, level, second, index = task.traffic, task.level, *writer
    batch, seconds, reads = float(second.batch[index]), float(second.seconds[index]), float(first.seconds[reader])
    answer = _steps(traffic) * seconds
    highest = decode.replicas * batch / answer
    rate = highest if traffic.rate is None else traffic.rate
    if traffic.concurrency is not None:
        rate = min(rate, traffic.concurrency / (answer + reads))
    each = float(first.rate[reader])
    prefills = max(1, math.ceil(rate / (_BUSY * each)))
    wait, tail = _waits(task, prefills, rate, each)
    begin = reads + float(max(first.transfer[reader], second.transfer[index]))
    found = Divided(
        prefill=Side(table=first.table, row=reader, replicas=prefills),
        decode=decode,
        batch=min(batch, rate / decode.replicas * answer),
        rate=rate,
        highest=min(highest, prefills * each),
        ttft=begin + wait,
        ttft_tail=begin + max(tail, wait),
        tpot=seconds,
        tpot_tail=seconds + max(NormalDist().inv_cdf(level.percentile), 0.0) * float(second.spread[index]),
        reading_s=reads,
        kept=0.0,
    )
    late = level.ttft_s is not None and found.ttft_tail > level.ttft_s
    slow = level.tpot_s is not None and found.tpot_tail > level.tpot_s
    if late or slow:
        return None
    doubts = first.doubt[[reader]], second.doubt[[index]]
    return replace(found, kept=_kept(task, found, *doubts))


def _kept(task: Serve, found: Divided, start_sd: Floats, time_sd: Floats) -> float:
    spare = found.highest / found.rate if task.traffic.rate is not None else math.inf
    tails, one = (np.array([found.ttft_tail]), np.array([found.tpot_tail])), np.array([spare])
    return float(
        chance_kept(task.level, ttft=tails[0], tpot=tails[1], spare=one, start_sd=start_sd, time_sd=time_sd)[0]
    )


def _waits(task: Serve, prefills: int, rate: float, each: float) -> tuple[float, float]:
    """Return the mean wait for a prefill replica, and the one at the percentile."""
    servers, service = np.array([prefills]), np.array([1.0 / each])
    wait = waiting_mgc(servers, np.array([rate]), service, variation(task.traffic.input))
    late = np.maximum(erlang_c(servers, rate * service), 1e-9)
    return float(wait[0]), float(tail_wait(late, wait, task.level.percentile)[0])


def _has_room(found: Divided) -> bool:
    """Whether both sides fit their pools, together where it is the same one, and fill nodes evenly."""
    first, second = found.prefill, found.decode
    here, there = first.table.space.option, second.table.space.option
    if here.pool is there.pool:
        room = here.counts.minimum <= found.devices <= most_devices(here)
    else:
        room = first.devices <= most_devices(here) and second.devices <= most_devices(there)
    return room and first.even and second.even


def _keys(scenario: Scenario, task: Serve, found: Divided) -> tuple[float, ...]:
    tokens = found.rate * task.traffic.output.mean
    options = [side.table.space.option for side in (found.prefill, found.decode)]
    preference = max(option.preference for option in options) if scenario.resources.ordered else 0
    value, known = _value(scenario, task, found, tokens)
    value /= max(found.kept, LEAST_CHANCE) if task.level.has_limits else 1.0
    latency = found.ttft + task.traffic.output.mean * found.tpot
    return (float(preference), 0.0 if known else 1.0, value, float(found.devices), latency)


def _value(scenario: Scenario, task: Serve, found: Divided, tokens: float) -> tuple[float, bool]:
    """Return what the goal minimises, as ``ranking.goal_values`` does for alike devices, and whether it is known."""
    if scenario.goal is not Goal.TIME:
        total = rate_of_money_or_power(found, scenario.goal)
        return (found.devices / tokens, False) if total is None else (total / tokens, True)
    if task.level.has_limits:
        return found.devices / tokens, True
    if task.traffic.rate is None and task.traffic.concurrency is None:
        return 1.0 / tokens, True
    return found.ttft + task.traffic.output.mean * found.tpot, True


def rate_of_money_or_power(found: Divided, goal: Goal) -> float | None:
    """Return the price a second (goal ``cost``) or the watts (``energy``) of all devices; None where one is unknown."""
    total = 0.0
    for side in (found.prefill, found.decode):
        pool = side.table.space.option.pool
        each = pool.price_per_device_hour if goal is Goal.COST else pool.accelerator.tdp_w
        if each is None:
            return None
        total += side.devices * each / (3600.0 if goal is Goal.COST else 1.0)
    return total
