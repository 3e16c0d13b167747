"""What keeping data-parallel ranks alike costs: collectives of weights and gradients, and the update.

ZeRO's stages (arXiv:1910.02054): 1 shards the optimiser's state, so gradients are reduce-scattered and new weights
gathered; 2 gradients too; 3 (FSDP) also weights, which are gathered for each pass of every micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.domain.rates import Collective, Phase
from mofang.domain.strategy import Offload, Sharding
from mofang.matching.candidates import METHODS, OFFLOADS, PRECISIONS, SHARDINGS
from mofang.matching.codes import combinations
from mofang.matching.coefficients import coefficients
from mofang.matching.communication import Ranks, Transfer, collective_seconds, ranks_of
from mofang.matching.exposed import ELEMENTS
from mofang.matching.params import Params, params_of
from mofang.matching.profiles import Profile
from mofang.matching.speed import Speed
from mofang.matching.work import Work
from mofang.matching.workers import speed_of
from mofang.matching.workload import update_uses

__all__ = ["states"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BUCKET_BYTES = 25 * 2**20  # PyTorch DDP reduces gradients in pieces of this size
_SPLIT = ("precision", "method", "threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rank:
    """One rank's place: its cut of the dense parameters and of the experts, and with whom it shares each."""

    tp: Floats
    shards: Floats  # of the experts
    dense: Ranks
    experts: Ranks


def states(work: Work, pool: Pool, profile: Profile, columns: Mapping[str, Ints]) -> Mapping[str, Floats]:
    """Return the seconds of keeping ranks alike, of all layers on one rank, for every row of ``columns``.

    Args:
        work: what is trained.
        pool: where.
        profile: how the framework spends time.
        columns: those of ``Candidates`` that states depend on, and ``on_node`` (the workers on each node).

    Returns:
        ``ahead_each`` and ``ahead_once``, what lies before or in the forward pass of every micro-batch or once a step;
        ``behind_each`` and ``behind_once``, in or after the backward pass; ``update``, the optimiser; ``doublings``,
        log2 of the nodes that one pipeline stage has.
    """
    rank = _rank(columns)
    found = {name: np.zeros(len(columns["tp"])) for name in ("ahead_each", "ahead_once", "behind_each", "behind_once")}
    update = np.zeros(len(columns["tp"]))
    groups = combinations({name: columns[name] for name in _SPLIT})
    for index in range(len(groups)):
        rows = np.flatnonzero(groups.place == index)
        setting = {name: int(column[index]) for name, column in groups.columns.items()}
        part = {name: column[rows] for name, column in columns.items()}
        one = _Group(
            work=work,
            pool=pool,
            profile=profile,
            params=params_of(work, METHODS[setting["method"]]),
            element=float(ELEMENTS[setting["precision"]]),
            sharding=part["sharding"],
            offload=part["offload"],
            rank=_where(rank, rows),
        )
        for name, seconds in one.transfers().items():
            found[name][rows] = seconds
        speed = speed_of(
            pool, PRECISIONS[setting["precision"]], workers=_busiest(part), threads=setting["threads"], fused=True
        )
        update[rows] = one.update(speed)
    on_stage = columns["dp"] * columns["tp"] * columns["cp"] / columns["on_node"]
    return {**found, "update": update, "doublings": np.log2(on_stage)}


def _busiest(columns: Mapping[str, Ints]) -> int:
    return int(columns["on_node"].max(initial=1))


def _rank(columns: Mapping[str, Ints]) -> _Rank:
    dp, tp, cp, ep, on_node = (columns[name].astype(np.float64) for name in ("dp", "tp", "cp", "ep", "on_node"))
    shards = np.where(ep > 1, ep, tp)
    same = np.maximum(dp * cp * tp / shards, 1.0)
    return _Rank(
        tp=tp,
        shards=shards,
        dense=ranks_of(dp * cp, tp, on_node),
        experts=ranks_of(same, shards, on_node),
    )


def _where(rank: _Rank, rows: NDArray[np.intp]) -> _Rank:
    return _Rank(
        tp=rank.tp[rows], shards=rank.shards[rows], dense=rank.dense.where(rows), experts=rank.experts.where(rows)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Rows of one precision and method."""

    work: Work
    pool: Pool
    profile: Profile
    params: Params
    element: float
    sharding: Ints
    offload: Ints
    rank: _Rank

    def is_sharding(self, *kinds: Sharding) -> NDArray[np.bool_]:
        """Return which rows shard like this."""
        return np.isin(self.sharding, [SHARDINGS.index(kind) for kind in kinds])

    def transfers(self) -> dict[str, Floats]:
        """Return the collectives' seconds by when they happen."""
        params, profile = self.params, self.profile
        gradient = profile.gradient_bytes or self.element
        weight = profile.gather_bytes or self.element
        whole, parts = self.is_sharding(Sharding.NONE, Sharding.DDP), ~self.is_sharding(Sharding.NONE, Sharding.DDP)
        fully = self.is_sharding(Sharding.FSDP)
        trained = (gradient * params.trained_dense, gradient * params.trained_experts)
        reduced = self._seconds(whole, Collective.ALL_REDUCE, *trained, bucketed=self.pool.is_cpu)
        scattered = self._seconds(parts, Collective.REDUCE_SCATTER, *trained)
        renewed = (weight * params.trained_dense, weight * params.trained_experts)
        gathered = self._seconds(parts & ~fully, Collective.ALL_GATHER, *renewed)
        tables = float(self.work.model.embedding_params)
        forward = self._seconds(fully, Collective.ALL_GATHER, weight * params.dense, weight * params.experts)
        backward = self._seconds(
            fully, Collective.ALL_GATHER, weight * (params.dense - tables), weight * params.experts
        )
        each = parts & ~self.is_sharding(Sharding.ZERO1) & profile.reduce_each
        loaded = self._loaded(weight)
        return {
            "ahead_each": forward + loaded,
            "ahead_once": gathered,
            "behind_each": backward + loaded + np.where(each, scattered, 0.0),
            "behind_once": reduced + np.where(each, 0.0, scattered),
        }

    def _seconds(
        self, where: NDArray[np.bool_], operation: Collective, dense: float, experts: float, *, bucketed: bool = False
    ) -> Floats:
        """Return the seconds of a collective over so many bytes of dense and of expert parameters of the model.

        None where the row does not need it, and none between a rank and itself.
        """
        total = np.zeros_like(self.rank.tp)
        for size, cut, ranks in (
            (dense, self.rank.tp, self.rank.dense),
            (experts, self.rank.shards, self.rank.experts),
        ):
            rows = np.flatnonzero(where & (ranks.count > 1)) if size else np.zeros(0, dtype=np.intp)
            if not len(rows):
                continue
            share = size / cut[rows]
            calls = np.ceil(share / _BUCKET_BYTES) if bucketed else np.full_like(share, self.work.model.layers + 1.0)
            transfer = Transfer(operation=operation, size=share, calls=calls, rails=self.profile.rails)
            total[rows] += collective_seconds(self.pool, transfer, ranks.where(rows))
        return total

    def _held(self, dense: float, experts: float, sharded: NDArray[np.bool_]) -> Floats:
        def share(size: float, cut: Floats, ranks: Ranks) -> Floats:
            return size / cut / np.where(sharded, ranks.count, 1.0)

        return share(dense, self.rank.tp, self.rank.dense) + share(experts, self.rank.shards, self.rank.experts)

    def _loaded(self, weight: float) -> Floats:
        """Return the seconds of bringing weights that live in host memory to the device, once a pass."""
        everything = self.offload == OFFLOADS.index(Offload.ALL)
        held = self._held(self.params.dense, self.params.experts, self.is_sharding(Sharding.FSDP))
        return np.where(everything, weight * held / self._host_link(), 0.0)

    def _host_link(self) -> float:
        return self.pool.accelerator.pcie_bandwidth / 2.0 or coefficients().host["link"]

    def update(self, speed: Speed) -> Floats:
        """Return the seconds of the optimiser, on the device or (ZeRO-Offload, arXiv:2101.06840) on the host."""
        sharded = ~self.is_sharding(Sharding.NONE, Sharding.DDP)
        held = self._held(self.params.trained_dense, self.params.trained_experts, sharded)
        sizes, place = np.unique(held, return_inverse=True)
        on_device = sum(
            (speed.seconds(operator, Phase.UPDATE, shapes) for operator, shapes in update_uses(sizes)),
            np.zeros(len(sizes)),
        )
        host = coefficients().host
        moved = held * 2.0 * self.element / self._host_link()
        on_host = moved + held * host["update_bytes"] * self.pool.devices_per_node / host["bandwidth"]
        seconds: Floats = np.where(self.offload == OFFLOADS.index(Offload.NONE), on_device[place.ravel()], on_host)
        return seconds
