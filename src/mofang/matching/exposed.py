"""Collectives inside a micro-batch, over all layers, as far as nothing hides them; one row a way to cut it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool, Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.rates import Collective
from mofang.matching.candidates import PRECISIONS
from mofang.matching.communication import Transfer, collective_seconds, exchange_seconds, ranks_of, send_seconds
from mofang.matching.profiles import Profile
from mofang.matching.work import Work

__all__ = [
    "ELEMENTS",
    "HALVES",
    "Exposed",
    "Setting",
    "context_seconds",
    "expert_seconds",
    "setting_of",
    "stage_seconds",
    "tensor_seconds",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Products in these formats leave everything else in 16 bits.
HALVES = frozenset({Precision.FP8, Precision.FP4, Precision.INT8})
ELEMENTS = np.array([2.0 if kind in HALVES else kind.bytes for kind in PRECISIONS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposed:
    """Seconds in each pass of one micro-batch."""

    forward: Floats
    backward: Floats

    @property
    def both(self) -> Floats:
        """Seconds of both passes."""
        return self.forward + self.backward


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The columns that collectives depend on, and what they are about. ``element`` is bytes of an activation."""

    work: Work
    pool: Pool
    profile: Profile
    tp: Floats
    cp: Floats
    ep: Floats
    on_node: Floats
    spans: NDArray[np.bool_]
    tokens: Floats
    element: Floats

    @property
    def model(self) -> ModelArchitecture:
        """The model."""
        return self.work.model

    @property
    def hidden_bytes(self) -> Floats:
        """Bytes of the activations between two blocks on a rank, before tensor parallelism cuts them."""
        return self.tokens * self.model.hidden * self.element


def setting_of(work: Work, pool: Pool, profile: Profile, columns: Mapping[str, Ints]) -> Setting:
    """Return the setting of every row of some columns."""
    tp, cp, ep, on_node, micro_batch = (
        columns[name].astype(np.float64) for name in ("tp", "cp", "ep", "on_node", "micro_batch")
    )
    return Setting(
        work=work,
        pool=pool,
        profile=profile,
        tp=tp,
        cp=cp,
        ep=ep,
        on_node=on_node,
        spans=columns["spans"].astype(np.bool_),
        tokens=micro_batch * work.sequence / cp,
        element=ELEMENTS[columns["precision"]],
    )


def tensor_seconds(at: Setting) -> Exposed:
    """Return the exposed gathers and reduce-scatters of tensor parallelism.

    A block has two of each in either pass (arXiv:2205.05198, section 4.2.2; one all-reduce of arXiv:1909.08053 moves as
    much), one where its experts are spread over ranks; the table and the head have one more.
    """
    if (at.tp == 1).all():
        return _nothing(at)
    ranks = ranks_of(at.tp, np.ones_like(at.tp), at.on_node)
    one = sum(
        collective_seconds(at.pool, _once(operation, at.hidden_bytes), ranks)
        for operation in (Collective.ALL_GATHER, Collective.REDUCE_SCATTER)
    )
    sparse = np.where(at.ep > 1, at.model.expert_layers, 0.0)
    seconds = one * (2.0 * at.model.layers - sparse + 1.0)
    forward, backward = at.profile.tensor_hidden
    return Exposed(forward=seconds * (1.0 - forward), backward=seconds * (1.0 - backward))


def _once(operation: Collective, size: Floats) -> Transfer:
    return Transfer(operation=operation, size=size, calls=np.ones_like(size))


def _nothing(at: Setting) -> Exposed:
    return Exposed(forward=np.zeros_like(at.tp), backward=np.zeros_like(at.tp))


def context_seconds(at: Setting, forward: Floats, backward: Floats) -> Exposed:
    """Return the exposed part of passing keys and values around a ring behind attention (arXiv:2310.01889).

    ``forward`` and ``backward`` are attention's own seconds. The way back carries their gradients too.
    """
    if (at.cp == 1).all():
        return _nothing(at)
    model = at.model
    ranks = ranks_of(at.cp, at.tp, at.on_node)
    if model.latent is None:
        width = 2.0 * np.maximum(model.kv_heads / at.tp, 1.0) * model.head_dim
    else:
        head = model.latent.qk_nope_head_dim + model.latent.qk_rope_head_dim + model.latent.v_head_dim
        width = model.heads / at.tp * head
    one = send_seconds(at.pool, at.tokens * width * at.element, ranks.nodes > 1)
    there = (at.cp - 1.0) * model.layers * one
    hidden = at.profile.context_hidden
    return Exposed(
        forward=np.maximum(0.0, there - hidden * forward),
        backward=np.maximum(0.0, 2.0 * there - hidden * backward),
    )


def expert_seconds(at: Setting) -> Exposed:
    """Return the exposed all-to-alls that send tokens to their experts and back, in either pass."""
    moe = at.model.moe
    if moe is None or (at.ep == 1).all():
        return _nothing(at)
    size = moe.top_k * at.hidden_bytes / at.tp
    ranks = ranks_of(at.ep, np.ones_like(at.ep), at.on_node)
    one = exchange_seconds(at.pool, size, ranks, copies=float(moe.top_k))
    seconds = 2.0 * at.model.expert_layers * one * at.profile.imbalance * (1.0 - at.profile.expert_hidden)
    return Exposed(forward=seconds, backward=seconds)


def stage_seconds(at: Setting) -> Floats:
    """Return the seconds of handing one micro-batch's activations to the next pipeline stage.

    Every tensor-parallel rank sends its shard (arXiv:2104.04473, section 4.1); stages are placed last, on other nodes.
    """
    return send_seconds(at.pool, at.hidden_bytes / at.tp, at.spans)
