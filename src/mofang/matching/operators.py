"""How much work each operator is: FLOP, bytes moved, kernels launched; array-at-a-time over shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.rates import Operator, Phase

__all__ = ["Work", "dimensions", "work"]

Floats = NDArray[np.float64]

# Elements moved a row and column: forward, backward, the same where a compiler fuses neighbours; kernels of each.
_TRAFFIC: dict[Operator, tuple[float, float, float, float, int, int]] = {
    Operator.NORM: (2, 4, 2, 3, 1, 2),
    Operator.ROPE: (9, 9, 2, 2, 5, 7),
    Operator.GATED: (5, 10, 3, 5, 2, 3),
    Operator.ADD: (3, 3, 1, 1, 1, 1),
    Operator.CAST: (3, 3, 3, 3, 1, 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """FLOP, bytes and kernels of each shape."""

    flops: Floats
    bytes: Floats
    kernels: float


def dimensions(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape with ones appended up to three sizes."""
    first, second, third = (*shape, 1, 1)[:3]
    return first, second, third


def work(operator: Operator, phase: Phase, shapes: Floats, element: float, *, fused: bool = False) -> Work:
    """Return the work of ``operator`` at every row of ``shapes`` (Q x 3), ``element`` bytes an element.

    A matrix product is 2 m n k forward and twice that backward; causal attention is half of 4 b h s^2 d forward and 2.5
    times that backward (it computes the scores again, arXiv:2205.14135).
    """
    a, b, c = shapes[:, 0], shapes[:, 1], shapes[:, 2]
    backward = phase is Phase.BACKWARD
    if operator is Operator.LINEAR:
        times = 2 if backward else 1
        return Work(flops=times * 2 * a * b * c, bytes=times * element * (a * c + b * c + a * b), kernels=times)
    if operator is Operator.ATTENTION:
        moved = (8 if backward else 4) * element * a * b * c
        return Work(flops=(5 if backward else 2) * a * b * b * c, bytes=moved, kernels=1)
    moved, kernels = _traffic(operator, shapes, element, backward=backward, fused=fused)
    return Work(flops=np.zeros_like(a), bytes=moved, kernels=kernels)


def _traffic(
    operator: Operator, shapes: Floats, element: float, *, backward: bool, fused: bool
) -> tuple[Floats, float]:
    """Return the bytes and kernels of an operator that does nothing but move data."""
    a, b, c = shapes[:, 0], shapes[:, 1], shapes[:, 2]
    if operator is Operator.CROSS_ENTROPY:
        # Logits are raised to fp32 first: cast, log-softmax, and the same way back.
        return ((8 if fused else 12) + element) * a * b, 3
    if operator is Operator.EMBEDDING:
        return 8 * a * c + (4 * b * c if backward else 0.0), 2 if backward else 1
    if operator in _UPDATES:
        moved, kernels = _UPDATES[operator]
        return moved * a, kernels
    forward_eager, backward_eager, forward_fused, backward_fused, launched, launched_back = _TRAFFIC[operator]
    eager, compiled = (backward_eager, backward_fused) if backward else (forward_eager, forward_fused)
    size = _element(operator, element, fused=fused)
    return (compiled if fused else eager) * size * a * b, launched_back if backward else launched


# Bytes a parameter and kernels: AdamW reads four fp32 values and writes three; clipping reads, scales and clears.
_UPDATES = {Operator.ADAMW: (28.0, 1), Operator.CLIP: (16.0, 3)}


def _element(operator: Operator, element: float, *, fused: bool) -> float:
    """Return bytes of one moved element: rotations run in fp32, casts move fp32 and the other format."""
    if operator is Operator.CAST:
        return 2.0
    if operator is Operator.ROPE and not fused:
        return 4.0 if element >= 4 else 4.0 + 12.0 / 9.0
    return element
