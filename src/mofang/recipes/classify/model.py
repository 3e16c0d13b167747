"""A vision transformer (arXiv:2010.11929): patches and a class token, pre-norm blocks, a head on the class token.

Everything has a bias, norms are LayerNorm, the feed-forward is a GELU between two products. Weights are kept in float32
and cast where they are used. The query, key and value matrices are one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mofang.domain.scenario import VisionModel
from mofang.recipes.gpt.model import Linear, name_seed

__all__ = ["NORM_EPSILON", "Vit", "initialise"]

NORM_EPSILON = 1e-6
_INIT_STD = 0.02
_HALF_RANGE = 127.5  # bytes become -1..1


class LayerNorm(nn.Module):
    """LayerNorm (arXiv:1607.06450) over the last dimension, in the type of its input."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(size)), nn.Parameter(torch.empty(size))

    def forward(self, inputs: Tensor) -> Tensor:
        weight, bias = self.weight.to(inputs.dtype), self.bias.to(inputs.dtype)
        return functional.layer_norm(inputs, self.weight.shape, weight, bias, NORM_EPSILON)


class SelfAttention(nn.Module):
    """Every token sees every other."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.heads = model.heads
        self.qkv = Linear(model.hidden, 3 * model.hidden, bias=True)
        self.out = Linear(model.hidden, model.hidden, bias=True)

    def forward(self, inputs: Tensor) -> Tensor:
        batch, length, hidden = inputs.shape
        parts = self.qkv(inputs).view(batch, length, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        joined: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, hidden))
        return joined


class FeedForward(nn.Module):
    """Two products with GELU between them."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.up = Linear(model.hidden, model.ffn, bias=True)
        self.down = Linear(model.ffn, model.hidden, bias=True)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.down(functional.gelu(self.up(inputs)))
        return outputs


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and added to its input."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = LayerNorm(model.hidden), LayerNorm(model.hidden)
        self.attention, self.ffn = SelfAttention(model), FeedForward(model)

    def forward(self, inputs: Tensor) -> Tensor:
        middle = inputs + self.attention(self.attention_norm(inputs))
        outputs: Tensor = middle + self.ffn(self.ffn_norm(middle))
        return outputs


class Vit(nn.Module):
    """The model, on the default device, its weights without values.

    Args:
        model: its sizes.
        channels: of an image.
        classes: to tell apart.
        dtype: the type that products are computed in.
    """

    def __init__(self, model: VisionModel, *, channels: int, classes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.patch_size = dtype, model.patch_size
        self.patches = Linear(model.patch_size**2 * channels, model.hidden, bias=True)
        self.token = nn.Parameter(torch.empty(model.hidden))
        self.positions = nn.Parameter(torch.empty(model.sequence, model.hidden))
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.layers))
        self.norm = LayerNorm(model.hidden)
        self.head = Linear(model.hidden, classes, bias=True)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits (batch, classes), or the mean cross-entropy in nats where labels are given.

        Args:
            images: bytes (batch, height, width, channels).
            labels: (batch,).
        """
        hidden = self.patches(self._cut(images))
        token = self.token.to(self.dtype).expand(len(hidden), 1, -1)
        hidden = torch.cat((token, hidden), dim=1) + self.positions.to(self.dtype)
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden[:, 0])).float()
        return logits if labels is None else functional.cross_entropy(logits, labels)

    def _cut(self, images: Tensor) -> Tensor:
        """Return the patches (batch, number, values), row by row, their values in -1..1."""
        batch, height, width, channels = images.shape
        side = self.patch_size
        cut = images.view(batch, height // side, side, width // side, side, channels).permute(0, 1, 3, 2, 4, 5)
        return cut.reshape(batch, -1, side * side * channels).to(self.dtype) / _HALF_RANGE - 1.0

    def examine(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return mean loss and accuracy of a batch, in this order."""
        logits = self(images)
        right = (logits.argmax(dim=-1) == labels).float().mean()
        return torch.stack((functional.cross_entropy(logits, labels), right))


@torch.no_grad()
def initialise(name: str, value: Tensor, *, layers: int, seed: int) -> None:
    """Give a parameter its first value; a function of seed and name alone.

    Matrices and tables are normal with deviation 0.02, those that end a residual branch divided by sqrt(2 x layers)
    (GPT-2), the projection of patches 1 / sqrt(values of a patch); norms are one, biases zero.
    """
    if value.dim() == 1 and name != "token":
        value.fill_(0.0 if name.endswith("bias") else 1.0)
        return
    deviation = _INIT_STD
    if name == "patches.weight":
        deviation = value.shape[1] ** -0.5
    elif name.endswith(("attention.out.weight", "ffn.down.weight")):
        deviation /= math.sqrt(2 * layers)
    generator = torch.Generator(device=value.device)
    generator.manual_seed(name_seed(name, seed))
    value.normal_(0.0, deviation, generator=generator)
