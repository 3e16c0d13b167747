"""Seconds of the collectives of data parallelism: alpha-beta, measured or from links.

A ring over n ranks moves 2 (n-1)/n of the tensor for an all-reduce and half of that for an all-gather or a
reduce-scatter (Patarasuk and Yuan, doi:10.1016/j.jpdc.2008.09.002); over several nodes the ring inside each node comes
first and its shards travel between nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.domain.rates import Collective, CollectiveRate
from mofang.matching.coefficients import coefficients

__all__ = ["Ranks", "Transfer", "collective_seconds"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """How many ranks take part, and over how many nodes (arrays of one length)."""

    count: Floats
    nodes: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """``size`` bytes in all, cut into ``calls`` calls of one collective (arrays of one length)."""

    operation: Collective
    size: Floats
    calls: Floats


def collective_seconds(pool: Pool, transfer: Transfer, ranks: Ranks) -> Floats:
    """Return the seconds of a transfer; 0 for a single rank."""
    ring = _ring(pool, transfer, ranks)
    rates = pool.rates.collectives if pool.is_cpu and pool.rates is not None else ()
    mine = [rate for rate in rates if rate.operation is transfer.operation]
    inside, across = ([rate for rate in mine if (rate.hosts > 1) == far] for far in (False, True))
    if inside:
        ring = np.where(ranks.nodes == 1, _measured(inside, transfer, ranks), ring)
    if across:
        ring = np.where(ranks.nodes > 1, _measured(across, transfer, ranks), ring)
    return np.where(ranks.count > 1, ring, 0.0)


def _ring(pool: Pool, transfer: Transfer, ranks: Ranks) -> Floats:
    times = 2.0 if transfer.operation is Collective.ALL_REDUCE else 1.0
    inside = ranks.count / ranks.nodes
    good = coefficients().link_efficiency
    steps_inside, steps_between = inside - 1.0, ranks.nodes - 1.0
    latency = transfer.calls * (steps_inside * pool.intra.latency_s + steps_between * pool.inter.latency_s)
    local = transfer.size * steps_inside / inside / max(pool.intra.bandwidth * good, 1.0)
    shard = transfer.size / inside
    between = shard * steps_between / ranks.nodes / max(pool.inter.bandwidth * good, 1.0)
    seconds: Floats = times * (latency + local + between)
    return seconds


def _measured(rates: Sequence[CollectiveRate], transfer: Transfer, ranks: Ranks) -> Floats:
    """Return seconds from the measurement with the nearest number of workers; its shape over workers is the ring's."""
    seconds = np.zeros_like(transfer.size)
    for count in np.unique(ranks.count):
        here = ranks.count == count
        rate = min(rates, key=lambda row: (abs(math.log2(row.workers / count)), row.workers))
        moved = _share(count) / _share(rate.workers)
        hops = max(count - 1.0, 1.0) / max(rate.workers - 1.0, 1.0)
        seconds[here] = transfer.calls[here] * rate.latency_s * hops + transfer.size[here] * moved / rate.bandwidth
    return seconds


def _share(ranks: float) -> float:
    return max(ranks - 1.0, 1.0) / max(ranks, 2.0)
