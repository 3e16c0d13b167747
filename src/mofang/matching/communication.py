"""Seconds of collectives: measured, or a ring over links inside a node and between nodes.

A ring over n ranks moves 2 (n-1)/n of the tensor for an all-reduce and half of that for an all-gather or a
reduce-scatter (Patarasuk and Yuan, doi:10.1016/j.jpdc.2008.09.002). Over several nodes every rank drives its own
network port: the ranks of a group that share a node share their ports, and the slower of both links paces the ring.
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
from mofang.matching.curves import Curves, curves_of

__all__ = ["Ranks", "Transfer", "collective_seconds", "exchange_seconds", "ranks_of", "send_seconds"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """How many ranks take part, and over how many nodes (arrays of one length)."""

    count: Floats
    nodes: Floats

    @property
    def inside(self) -> Floats:
        """Ranks of the group on each node."""
        return self.count / self.nodes

    def where(self, rows: NDArray[np.intp]) -> Ranks:
        """Return some rows."""
        return Ranks(count=self.count[rows], nodes=self.nodes[rows])


def ranks_of(count: Floats, stride: Floats, on_node: Floats) -> Ranks:
    """Return a group of ``count`` ranks, each ``stride`` after the one before it, with ``on_node`` ranks on a node."""
    inside = np.clip(np.floor(on_node / stride), 1.0, count)
    return Ranks(count=count, nodes=np.ceil(count / inside))


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """``size`` bytes in all, cut into ``calls`` calls of one collective (arrays of one length).

    ``rails`` is the exponent of the ranks on a node whose network ports work together: 1 all of them, 0 one.
    """

    operation: Collective
    size: Floats
    calls: Floats
    rails: float = 1.0


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
    inside, nodes = ranks.inside, ranks.nodes
    good = coefficients().link_efficiency
    port = max(pool.inter.bandwidth * good, 1.0)
    latency = transfer.calls * times * (nodes - 1.0) * pool.inter.latency_s
    between = times * transfer.size * (nodes - 1.0) / nodes / (port * inside**transfer.rails)
    local = _inside(pool, transfer, inside)
    seconds: Floats = latency + np.maximum(local, between)
    return seconds


def _inside(pool: Pool, transfer: Transfer, ranks: Floats) -> Floats:
    """Return the seconds inside a node, from the accelerator's own curves where its link is the data sheet's."""
    if pool.is_cpu:
        times = 2.0 if transfer.operation is Collective.ALL_REDUCE else 1.0
        rate = max(pool.intra.bandwidth * coefficients().link_efficiency, 1.0)
        steps = ranks - 1.0
        return np.asarray(
            times * (transfer.calls * steps * pool.intra.latency_s + transfer.size * steps / ranks / rate)
        )
    each = _curve(pool, transfer.operation.value, transfer.size / transfer.calls, ranks)
    return np.where(ranks > 1, transfer.calls * each, 0.0)


def _curve(pool: Pool, operation: str, size: Floats, ranks: Floats) -> Floats:
    """Return one call's seconds on the scale-up link, stretched where this pool's link is not the data sheet's."""
    return _curves(pool).collective(operation, size, np.maximum(ranks, 2.0)) * _stretch(pool)


def _curves(pool: Pool) -> Curves:
    return curves_of(pool.accelerator)


def _stretch(pool: Pool) -> float:
    described = pool.accelerator.scaleup_bandwidth / 2.0
    return described / pool.intra.bandwidth if described and pool.intra.bandwidth else 1.0


def exchange_seconds(pool: Pool, size: Floats, ranks: Ranks, copies: float) -> Floats:
    """Return the seconds of an all-to-all in which every rank sends ``size`` bytes, one part to each rank.

    Of a token that several ranks of one other node want, one copy crosses the network (DeepSeek-V3, arXiv:2412.19437,
    section 3.2.2): ``copies`` is how many ranks want each token.
    """
    inside, nodes = ranks.inside, ranks.nodes
    good = coefficients().link_efficiency
    each = _curve(pool, "all-to-all", size, inside)
    local = np.where(inside > 1, each, 0.0)
    crossing = np.minimum(1.0, (nodes - 1.0) / max(copies, 1.0)) * (nodes > 1)
    distant = np.minimum(crossing, (nodes - 1.0) / nodes)
    between = size * distant / max(pool.inter.bandwidth * good, 1.0) + (nodes > 1) * pool.inter.latency_s
    return np.where(ranks.count > 1, np.maximum(local, between), 0.0)


def send_seconds(pool: Pool, size: Floats, across: NDArray[np.bool_]) -> Floats:
    """Return the seconds of sending ``size`` bytes to one rank, on this node or ``across`` nodes."""
    good = coefficients().link_efficiency
    near = pool.intra.latency_s + size / max(pool.intra.bandwidth * good, 1.0)
    far = pool.inter.latency_s + size / max(pool.inter.bandwidth * good, 1.0)
    return np.where(across, far, near)


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
