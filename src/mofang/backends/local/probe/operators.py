"""The operators of a training step as torch executes them, one by one, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor
from torch.optim.adamw import adamw

from mofang.domain.rates import Operator, Phase

__all__ = ["Passes", "build"]

Call = Callable[[], object]
_PATTERN = 65537


@dataclass(frozen=True, slots=True)
class Passes:
    """What can be timed of one operator: a call a phase."""

    calls: dict[Phase, Call]


def build(operator: Operator, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Passes:
    """Return the calls that time ``operator`` at ``shape``; their inputs are made here, outside the timed part."""
    return _BUILDERS[operator](shape, dtype, device)


def _values(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
    """Return random values; a pattern repeated, because drawing every one would take longer than what is timed."""
    count = math.prod(shape)
    pattern = torch.randn(min(count, _PATTERN), device=device, dtype=torch.float32).to(dtype)
    return pattern.repeat(-(-count // pattern.numel()))[:count].view(shape)


def _leaf(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
    return _values(*shape, dtype=dtype, device=device).requires_grad_()


def _differentiable(forward: Callable[[], Tensor], inputs: tuple[Tensor, ...]) -> Passes:
    output = forward()
    gradient = torch.ones_like(output)
    # Held back from a fresh graph each time: only the backward pass itself is timed.
    return Passes(
        {
            Phase.FORWARD: forward,
            Phase.BACKWARD: lambda: torch.autograd.grad(output, inputs, gradient, retain_graph=True),
        }
    )


def _linear(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Passes:
    m, n, k = shape
    x, weight = _leaf(m, k, dtype=dtype, device=device), _leaf(n, k, dtype=dtype, device=device)
    return _differentiable(lambda: F.linear(x, weight), (x, weight))


def _attention(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Passes:
    heads, sequence, width = shape
    # As a model holds them: one product (batch, sequence, heads, width), divided and seen from the side.
    merged = _leaf(1, sequence, 3 * heads, width, dtype=dtype, device=device)

    def attend() -> Tensor:
        q, k, v = torch.split(merged, heads, dim=2)
        return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)

    return _differentiable(attend, (merged,))


def _norm(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Passes:
    x, weight = _leaf(*shape, dtype=dtype, device=device), _leaf(shape[1], dtype=dtype, device=device)
    return _differentiable(lambda: F.rms_norm(x, (shape[1],), weight), (x, weight))


def _rope(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Passes:
    rows, width = shape
    head = min(64, width)
    x = _leaf(rows, width // head, head, dtype=dtype, device=device)
    cos, sin = (_values(rows, 1, head, dtype=torch.float32, device=device) for _ in range(2))

    def rotate() -> Tensor:
        wide = x.float()
        return (wide * cos + wide.roll(head // 2, dims=-1) * sin).to(dtype)

    return _differentiable(rotate, (x,))


def _gated(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Passes:
    rows, width = shape
    merged = _leaf(rows, 2 * width, dtype=dtype, device=device)

    def swiglu() -> Tensor:
        gate, up = merged.chunk(2, dim=-1)
        return F.silu(gate) * up

    return _differentiable(swiglu, (merged,))


def _add(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Passes:
    a, b = (_values(*shape, dtype=dtype, device=device) for _ in range(2))
    # Backward a sum is where two gradients meet: the same addition.
    return Passes({Phase.FORWARD: lambda: a + b, Phase.BACKWARD: lambda: a + b})


def _cross_entropy(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Passes:
    logits = _leaf(*shape, dtype=dtype, device=device)
    targets = torch.zeros(shape[0], dtype=torch.long, device=device)
    return _differentiable(lambda: F.cross_entropy(logits.float(), targets), (logits,))


def _embedding(shape: tuple[int, ...], _: torch.dtype, device: str) -> Passes:
    rows, vocabulary, width = shape
    table = _leaf(vocabulary, width, dtype=torch.float32, device=device)
    tokens = torch.arange(rows, device=device) % vocabulary
    return _differentiable(lambda: F.embedding(tokens, table), (table,))


def _cast(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Passes:
    weight = _leaf(*shape, dtype=torch.float32, device=device)
    return _differentiable(lambda: weight.to(dtype), (weight,))


_TENSORS = 8  # among which the parameters of an update are divided


def _divided(shape: tuple[int, ...], device: str) -> list[Tensor]:
    return list(_values(shape[0], dtype=torch.float32, device=device).chunk(_TENSORS))


def _adamw(shape: tuple[int, ...], _: torch.dtype, device: str) -> Passes:
    parameters, gradients, first, second = (_divided(shape, device) for _ in range(4))
    second = [moment.square() for moment in second]
    steps = [torch.ones((), device=device) for _ in parameters]

    def update() -> None:
        adamw(
            parameters,
            gradients,
            first,
            second,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.95,
            lr=1e-9,
            weight_decay=0.1,
            eps=1e-8,
            maximize=False,
        )

    return Passes({Phase.UPDATE: update})


def _clip(shape: tuple[int, ...], _: torch.dtype, device: str) -> Passes:
    flat = _values(shape[0], dtype=torch.float32, device=device)
    pieces = list(flat.chunk(_TENSORS))

    def clip_and_clear() -> None:
        norm = torch.linalg.vector_norm(flat)
        torch._foreach_mul_(pieces, (1.0 / (norm + 1e-6)).clamp(max=1.0))
        flat.zero_()

    return Passes({Phase.UPDATE: clip_and_clear})


_BUILDERS: dict[Operator, Callable[[tuple[int, ...], torch.dtype, str], Passes]] = {
    Operator.LINEAR: _linear,
    Operator.ATTENTION: _attention,
    Operator.NORM: _norm,
    Operator.ROPE: _rope,
    Operator.GATED: _gated,
    Operator.ADD: _add,
    Operator.CROSS_ENTROPY: _cross_entropy,
    Operator.EMBEDDING: _embedding,
    Operator.CAST: _cast,
    Operator.ADAMW: _adamw,
    Operator.CLIP: _clip,
}
