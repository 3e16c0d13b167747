"""Where deployments operate under a scenario's traffic: saturated, with a fixed number of requests, or at a rate.

Requests that come at random wait for the prompts before them (M/G/1 over the time that prompts occupy the engine) and,
where the cache or the scheduler is full, for a place (M/G/c over the time that requests stay).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mofang.domain.scenario import Lengths, ServiceLevel, Traffic
from mofang.matching.serving.queueing import erlang_c, tail_wait, waiting_mg1, waiting_mgc
from mofang.matching.serving.table import Table

__all__ = ["Operation", "at_load", "operate", "variation"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_STABLE = 0.97  # of the rate at which a replica saturates
_MOST_SERVERS = 512  # with more places than this, waiting for one is as good as a fluid's: none below saturation


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Candidates: a deployment (row of the table) with a number of replicas, and what they do together.

    ``in_flight`` is of one replica; rates and tokens are of all of them. ``ttft`` and ``tpot`` are means, ``_tail`` at
    the scenario's percentile.
    """

    row: Ints
    replicas: Ints
    in_flight: Floats
    limit: Floats  # requests that one replica decodes together at most
    requests_per_s: Floats
    max_requests_per_s: Floats
    ttft: Floats
    ttft_tail: Floats
    tpot: Floats
    tpot_tail: Floats
    stable: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row)


def operate(table: Table, traffic: Traffic, level: ServiceLevel, row: Ints, replicas: Ints) -> Operation:
    """Return the operation of deployments ``row`` with ``replicas`` copies each."""
    if traffic.rate is not None:
        return _open(table, traffic, level, row, replicas)
    if traffic.concurrency is not None:
        return _closed(table, level, row, replicas, np.full(len(row), float(traffic.concurrency)) / replicas)
    return _saturated(table, level, row, replicas)


def variation(lengths: Lengths) -> float:
    """Return the squared coefficient of variation of a length: variance over squared mean, linear between quantiles."""
    values = np.array(lengths.quantiles)
    first, second = values[:-1], values[1:]
    squares = float(np.mean((first**2 + first * second + second**2) / 3.0))
    return max(squares / lengths.mean**2 - 1.0, 0.0)


def at_load(table: Table, column: Floats, row: Ints, in_flight: Floats) -> Floats:
    """Return a column of the table between its grid points, linear in the logarithm of the requests in flight.

    A column may hold several values at each point.
    """
    place = np.clip(np.log2(np.maximum(in_flight, 1.0)), 0.0, len(table.grid) - 1.0)
    low = np.minimum(place.astype(np.int64), max(len(table.grid) - 2, 0))
    high = np.minimum(low + 1, len(table.grid) - 1)
    part = (place - low).reshape(-1, *(1,) * (column.ndim - 2))
    values: Floats = column[row, low] * (1.0 - part) + column[row, high] * part
    return values


def _tails(level: ServiceLevel, prefill: Floats, ttft: Floats, tpot: Floats, spread: Floats) -> tuple[Floats, Floats]:
    """Return both times at the percentile: what waits is exponential, the time per token is normal."""
    late = np.log(1.0 / (1.0 - level.percentile))
    ttft_tail = prefill + np.maximum(ttft - prefill, 0.0) * late
    deviations = NormalDist().inv_cdf(level.percentile)
    return np.maximum(ttft_tail, ttft), tpot + max(deviations, 0.0) * spread


def _closed(table: Table, level: ServiceLevel, row: Ints, replicas: Ints, in_flight: Floats) -> Operation:
    """Return the state with a fixed number of requests in flight; those beyond a replica's places wait."""
    served = np.minimum(in_flight, table.most[row])
    rate = at_load(table, table.requests_per_s, row, served) * np.minimum(in_flight, 1.0)
    tpot, spread = at_load(table, table.tpot_s, row, served), at_load(table, table.spread_s, row, served)
    prefill = at_load(table, table.prefill_s, row, served)
    waiting = np.maximum(in_flight - served, 0.0) / rate
    ttft = at_load(table, table.ttft_s, row, served) + waiting
    ttft_tail, tpot_tail = _tails(level, prefill + waiting, ttft, tpot, spread)
    return Operation(
        row=row,
        replicas=replicas,
        in_flight=in_flight,
        limit=np.maximum(np.ceil(served), 1.0),
        requests_per_s=rate * replicas,
        max_requests_per_s=table.requests_per_s.max(axis=1)[row] * replicas,
        ttft=ttft,
        ttft_tail=ttft_tail,
        tpot=tpot,
        tpot_tail=tpot_tail,
        stable=in_flight > 0,
    )


def _saturated(table: Table, level: ServiceLevel, row: Ints, replicas: Ints) -> Operation:
    """Return each replica with as many requests as give the most tokens a second under the service level."""
    wide_row, wide_replicas = np.repeat(row, len(table.grid)), np.repeat(replicas, len(table.grid))
    wanted = np.minimum(np.tile(table.grid, len(row)), table.most[wide_row])
    tried = _closed(table, level, wide_row, wide_replicas, wanted)
    good = meets(tried, level)
    # Where nothing meets the level, the smallest load comes closest.
    score = np.where(good, tried.requests_per_s, -tried.tpot_tail).reshape(len(row), -1)
    best = np.arange(len(row)) * len(table.grid) + score.argmax(axis=1)
    return _closed(table, level, row, replicas, wanted[best])


def meets(found: Operation, level: ServiceLevel) -> NDArray[np.bool_]:
    """Return which candidates keep the service level."""
    good = found.stable.copy()
    if level.ttft_s is not None:
        good &= found.ttft_tail <= level.ttft_s
    if level.tpot_s is not None:
        good &= found.tpot_tail <= level.tpot_s
    return good


def _open(table: Table, traffic: Traffic, level: ServiceLevel, row: Ints, replicas: Ints) -> Operation:
    """Return the state at a rate: requests in flight are those at which the replica just keeps up, queues on top."""
    each = np.full(len(row), traffic.rate or 0.0) / replicas
    highest = table.requests_per_s.max(axis=1)[row]
    stable = each < highest * _STABLE
    in_flight = _keeping_up(table, row, np.minimum(each, highest * _STABLE))
    prefill, tpot = at_load(table, table.prefill_s, row, in_flight), at_load(table, table.tpot_s, row, in_flight)
    spread = at_load(table, table.spread_s, row, in_flight)
    occupied = at_load(table, table.occupied_s, row, in_flight)
    busy = np.minimum(each * occupied, _STABLE)
    first = waiting_mg1(busy, occupied, variation(traffic.input))
    steps = max(traffic.output.mean - 1.0, 1.0)
    stay = prefill + first + steps * tpot
    places = np.maximum(table.most[row], 1.0)
    servers = np.minimum(places, _MOST_SERVERS).astype(np.int64)
    offered = np.minimum(np.minimum(each, highest * _STABLE) * stay, places * _STABLE) * servers / places
    second = waiting_mgc(servers, offered / stay, stay, variation(traffic.output)) * servers / places
    waits = erlang_c(servers, offered)
    first_tail = tail_wait(np.maximum(busy, 1e-9), first, level.percentile)
    second_tail = tail_wait(np.maximum(waits, 1e-9), second, level.percentile)
    deviations = max(NormalDist().inv_cdf(level.percentile), 0.0)
    begin = prefill + tpot / 2.0
    return Operation(
        row=row,
        replicas=replicas,
        in_flight=each * (stay + second),
        limit=np.minimum(np.maximum(2.0 ** np.ceil(np.log2(np.maximum(1.5 * in_flight, 1.0))), 1.0), places),
        requests_per_s=each * replicas,
        max_requests_per_s=highest * replicas,
        ttft=begin + first + second,
        ttft_tail=begin + np.maximum(first_tail, first) + np.maximum(second_tail, second),
        tpot=tpot,
        tpot_tail=tpot + deviations * spread,
        stable=stable,
    )


def _keeping_up(table: Table, row: Ints, rate: Floats) -> Floats:
    """Return the requests in flight at which a replica serves ``rate``; below the grid, a part of one request."""
    speeds = np.maximum.accumulate(table.requests_per_s, axis=1)[row]
    above = (speeds < rate[:, None]).sum(axis=1)
    high = np.minimum(above, len(table.grid) - 1)
    low = np.maximum(high - 1, 0)
    index = np.arange(len(row))
    under, over = speeds[index, low], speeds[index, high]
    part = np.where(over > under, (rate - under) / np.maximum(over - under, 1e-300), 0.0)
    between = np.exp2(
        np.log2(table.grid[low]) + np.clip(part, 0.0, 1.0) * (np.log2(table.grid[high] / table.grid[low]))
    )
    return np.where(above == 0, rate / speeds[:, 0], between)
