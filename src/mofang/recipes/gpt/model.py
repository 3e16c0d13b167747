"""A decoder-only transformer: RMSNorm, rotary positions, SwiGLU, grouped-query attention.

Weights are kept in float32 and cast where they are used, so the same code computes in float32 and in bfloat16; under
FSDP2 they arrive cast already. The query, key and value matrices are one, and so are gate and up: fewer, larger
products, and the same number of parameters as ``ModelArchitecture.params``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mofang.domain.model import ModelArchitecture
from mofang.domain.recipe import Numerics
from mofang.recipes.gpt.rotary import turning_rates

__all__ = ["Block", "Gpt", "Linear", "RunBlock", "initialise", "name_seed"]

_INIT_STD = 0.02


def _parameter(*shape: int) -> nn.Parameter:
    """Return a parameter on the current default device without values; ``initialise`` says what goes into it."""
    return nn.Parameter(torch.empty(shape))


class Linear(nn.Module):
    """A product in the type of its input."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = _parameter(outputs, inputs)
        self.bias = _parameter(outputs) if bias else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the product."""
        bias = None if self.bias is None else self.bias.to(inputs.dtype)
        return functional.linear(inputs, self.weight.to(inputs.dtype), bias)


class Norm(nn.Module):
    """RMSNorm (arXiv:1910.07467) over the last dimension."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = _parameter(size), epsilon

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.rms_norm(inputs, self.weight.shape, self.weight.to(inputs.dtype), self.epsilon)


class SelfAttention(nn.Module):
    """Causal grouped-query attention (arXiv:2305.13245) with rotary positions (arXiv:2104.09864)."""

    def __init__(self, model: ModelArchitecture, epsilon: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = model.heads, model.kv_heads, model.head_dim
        width = (model.heads + 2 * model.kv_heads) * model.head_dim
        self.qkv = Linear(model.hidden, width, bias=model.attention_bias)
        self.out = Linear(model.heads * model.head_dim, model.hidden, bias=model.output_bias)
        self.query_norm = Norm(model.head_dim, epsilon) if model.qk_norm else None
        self.key_norm = Norm(model.head_dim, epsilon) if model.qk_norm else None

    def forward(self, inputs: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, _ = inputs.shape
        merged = self.qkv(inputs).view(batch, length, self.heads + 2 * self.kv_heads, self.head_dim)
        turned, value = torch.split(merged, [self.heads + self.kv_heads, self.kv_heads], dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = torch.split(turned, [self.heads, self.kv_heads], dim=2)
            turned = torch.cat((self.query_norm(query), self.key_norm(key)), dim=2)
        query, key = torch.split(_rotate(turned, cos, sin), [self.heads, self.kv_heads], dim=2)
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=self.heads != self.kv_heads,
        )
        joined: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return joined


def _rotate(inputs: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim / 2) by its position's angle, in float32."""
    wide = inputs.float()
    turned = wide * cos + wide.roll(inputs.shape[-1] // 2, dims=-1) * sin
    return turned.to(inputs.dtype)


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, model: ModelArchitecture) -> None:
        super().__init__()
        self.gate_up = Linear(model.hidden, 2 * model.ffn, bias=model.ffn_bias)
        self.down = Linear(model.ffn, model.hidden, bias=model.ffn_bias)

    def forward(self, inputs: Tensor) -> Tensor:
        gate, up = self.gate_up(inputs).chunk(2, dim=-1)
        outputs: Tensor = self.down(functional.silu(gate) * up)
        return outputs


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and added to its input."""

    def __init__(self, model: ModelArchitecture, epsilon: float) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = Norm(model.hidden, epsilon), Norm(model.hidden, epsilon)
        self.attention, self.ffn = SelfAttention(model, epsilon), FeedForward(model)

    def forward(self, inputs: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """Return the residual stream after this layer."""
        middle = inputs + self.attention(self.attention_norm(inputs), cos, sin, mask)
        outputs: Tensor = middle + self.ffn(self.ffn_norm(middle))
        return outputs


class Head(nn.Module):
    """The last norm, the logits and, where targets are given, their mean cross-entropy in nats.

    Targets below zero (torch's -100) do not count.
    """

    def __init__(self, model: ModelArchitecture, epsilon: float) -> None:
        super().__init__()
        self.norm = Norm(model.hidden, epsilon)
        self.weight: nn.Parameter | None = None
        if not model.tied_embeddings:
            self.weight = _parameter(model.vocab, model.hidden)

    def forward(self, inputs: Tensor, embedding: Tensor, targets: Tensor | None) -> Tensor:
        weight = embedding if self.weight is None else self.weight
        logits = functional.linear(self.norm(inputs), weight.to(inputs.dtype)).float()
        if targets is None:
            return logits
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


RunBlock = Callable[["Block", Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Gpt(nn.Module):
    """The model, on the default device (``with torch.device(...)``), its weights and tables without values.

    Args:
        model: the architecture.
        sequence: the longest input.
        dtype: the type that products are computed in.
        numerics: what differs between families of equal sizes.
        run_block: calls a block; activation recompute replaces it.
    """

    def __init__(
        self,
        model: ModelArchitecture,
        *,
        sequence: int,
        dtype: torch.dtype,
        numerics: Numerics = Numerics(),
        run_block: RunBlock | None = None,
    ) -> None:
        super().__init__()
        self.dtype, self.head_dim, self.rotary = dtype, model.head_dim, numerics.rotary
        self.run_block = run_block or _run_block
        self.embedding = _parameter(model.vocab, model.hidden)
        self.blocks = nn.ModuleList(Block(model, numerics.norm_epsilon) for _ in range(model.layers))
        self.head = Head(model, numerics.norm_epsilon)
        for name in ("cos", "sin"):
            table = torch.empty(sequence, 1, model.head_dim, dtype=torch.float32)
            self.register_buffer(name, table, persistent=False)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return logits (batch, length, vocab), or the mean loss where targets are given.

        Args:
            tokens: (batch, length).
            targets: (batch, length); those below zero do not count.
            positions: (batch, length), where they do not simply count from 0.
            mask: (batch, 1, length, length), true where a query sees a key; None: whatever is not later.
        """
        at: Tensor | slice = slice(tokens.shape[1]) if positions is None else positions
        cos, sin = self.cos[at], self.sin[at]  # type: ignore[index]
        hidden = functional.embedding(tokens, self.embedding).to(self.dtype)
        for block in self.blocks:
            hidden = self.run_block(block, hidden, cos, sin, mask)  # type: ignore[arg-type]
        outputs: Tensor = self.head(hidden, self.embedding, targets)
        return outputs

    @torch.no_grad()
    def fill_tables(self) -> None:
        """Compute the cosines and the signed sines of every position."""
        cos, sin = self.get_buffer("cos"), self.get_buffer("sin")
        rates = turning_rates(self.rotary, self.head_dim)
        angles = torch.outer(torch.arange(cos.shape[0], dtype=torch.float64), rates).unsqueeze(1)
        cos.copy_(torch.cat((angles.cos(), angles.cos()), dim=-1))
        sin.copy_(torch.cat((-angles.sin(), angles.sin()), dim=-1))


def _run_block(block: Block, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
    outputs: Tensor = block(hidden, cos, sin, mask)
    return outputs


@torch.no_grad()
def initialise(name: str, shape: tuple[int, ...], *, layers: int, seed: int, device: torch.device) -> Tensor:
    """Return the first value of a whole parameter; a function of seed and name alone, so every layout starts alike.

    Matrices are normal with deviation 0.02, those that end a residual branch divided by sqrt(2 x layers) (GPT-2);
    norms are one, biases zero.
    """
    value = torch.empty(shape, device=device)
    if len(shape) == 1:
        return value.fill_(0.0 if name.endswith("bias") else 1.0)
    generator = torch.Generator(device=device)
    generator.manual_seed(name_seed(name, seed))
    ends_branch = name.endswith(("attention.out.weight", "ffn.down.weight"))
    return value.normal_(0.0, _INIT_STD / (math.sqrt(2 * layers) if ends_branch else 1.0), generator=generator)


def name_seed(name: str, seed: int) -> int:
    """Return a seed of its own for each name."""
    mixed = seed
    for byte in name.encode():
        mixed = (mixed * 1_000_003 + byte) % (1 << 63)
    return mixed
