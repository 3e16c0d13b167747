"""How a model may be cut: tensor, pipeline, context and expert parallel degrees that its sizes allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import StrategyChoice

__all__ = ["Cuts", "cuts_of", "divisors", "expert_degrees", "stage_chunks", "tensor_degrees"]

Ints = NDArray[np.int64]

_MOST_TP = 64
_MOST_PP = 64
_MOST_EP = 256
_MOST_VPP = 16
_FEWEST_TOKENS = 2048  # of a sequence on each context-parallel rank: below, its attention is too small to hide the ring
_MOST_IDLE = 0.05  # part of the stages' places that may be left without a layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """One row a combination of degrees; ``ranks`` is tp x pp x cp."""

    tp: Ints
    pp: Ints
    vpp: Ints
    cp: Ints

    @property
    def ranks(self) -> Ints:
        """Ranks of one data-parallel replica."""
        return self.tp * self.pp * self.cp


def divisors(number: int) -> tuple[int, ...]:
    """Return the divisors in rising order."""
    small = [size for size in range(1, int(number**0.5) + 1) if number % size == 0]
    return tuple(sorted({*small, *(number // size for size in small)}))


@cache
def cuts_of(
    model: ModelArchitecture, sequence: int, choice: StrategyChoice, allowed: frozenset[str], most_tp: int
) -> Cuts:
    """Return the degrees that the model's sizes, the framework's ``allowed`` cuts and the user's choice leave.

    A degree the user fixed is taken as it is where the model can be cut so at all: tensor parallel ranks share heads
    (key-value heads are shared or repeated), stages share layers, context ranks share the sequence.
    """
    rows = [
        (tp, pp, vpp, cp)
        for tp in tensor_degrees(model, choice.tp, most_tp if "tp" in allowed else 1)
        for pp, vpp in _stages(model.layers, choice, allowed)
        for cp in _contexts(sequence, choice.cp, allowed)
    ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return Cuts(tp=table[:, 0], pp=table[:, 1], vpp=table[:, 2], cp=table[:, 3])


def tensor_degrees(model: ModelArchitecture, fixed: int | None, most: int) -> tuple[int, ...]:
    """Return the tensor parallel degrees that divide heads and feed-forward, and divide or repeat key-value heads."""
    ffn = model.ffn if model.moe is None else max(model.moe.expert_ffn, 1)
    found = (
        size
        for size in divisors(model.heads)
        if size <= most and ffn % size == 0 and (model.kv_heads % size == 0 or size % model.kv_heads == 0)
    )
    return _asked(found, fixed, _MOST_TP)


def _asked(found: Iterator[int], fixed: int | None, most: int) -> tuple[int, ...]:
    return tuple(size for size in found if (size <= most if fixed is None else size == fixed))


def _stages(layers: int, choice: StrategyChoice, allowed: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Yield (pp, vpp): all chunks hold the same number of layers, or a few hold one less."""
    most = min(layers, _MOST_PP if choice.pp is None else layers) if "pp" in allowed else 1
    for pp in _asked(iter(range(1, most + 1)), choice.pp, most):
        if choice.pp is None and layers % pp and pp & (pp - 1):
            continue
        chunks = range(1, min(_MOST_VPP, -(-layers // pp)) + 1) if "vpp" in allowed and pp > 1 else range(1, 2)
        for vpp in _asked(iter(chunks), choice.vpp, layers):
            idle = stage_chunks(layers, pp, vpp) * pp / layers - 1.0
            if idle <= (_MOST_IDLE if choice.pp is None or vpp > 1 else float("inf")):
                yield pp, vpp


def stage_chunks(layers: int, pp: int, vpp: int) -> int:
    """Return the layers of the fullest stage."""
    return -(-layers // (pp * vpp)) * vpp


def _contexts(sequence: int, fixed: int | None, allowed: frozenset[str]) -> tuple[int, ...]:
    """Return powers of two; each rank takes two pieces of a sequence, for balance under the causal mask."""
    if "cp" not in allowed:
        return _asked(iter((1,)), fixed, 1)
    if fixed is not None:
        return (fixed,) if sequence % fixed == 0 else ()
    return tuple(
        size
        for power in range(7)
        if (size := 1 << power) == 1 or (sequence % (2 * size) == 0 and sequence // size >= _FEWEST_TOKENS)
    )


def expert_degrees(model: ModelArchitecture, fixed: int | None, framework: Framework) -> tuple[int, ...]:
    """Return the expert parallel degrees: divisors of the number of experts; 1 without experts."""
    moe = model.moe
    if moe is None or "ep" not in framework.cuts:
        return _asked(iter((1,)), fixed, 1)
    return _asked(iter(divisors(moe.num_experts)), fixed, _MOST_EP)
