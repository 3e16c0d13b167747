"""Low-rank adapters beside frozen products (LoRA, arXiv:2106.09685): W x + alpha / rank x B A x."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Adapter
from mofang.recipes.finetune.names import MERGED
from mofang.recipes.gpt.model import Gpt, Linear, name_seed
from mofang.recovery.checkpoint.state import Part

__all__ = ["AdaptedLinear", "adapt", "fill_adapters", "merged_weight"]


class LowRank(nn.Module):
    """The product with B A, whose matrices PEFT calls ``lora_A`` (``down``) and ``lora_B`` (``up``)."""

    def __init__(self, inputs: int, outputs: int, adapter: Adapter) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(adapter.rank, inputs))
        self.up = nn.Parameter(torch.empty(outputs, adapter.rank))
        self.scale, self.dropout = adapter.alpha / adapter.rank, adapter.dropout

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what is added to the frozen product."""
        kept = functional.dropout(inputs, self.dropout, self.training) if self.dropout else inputs
        narrow = functional.linear(kept, self.down.to(inputs.dtype))
        return functional.linear(narrow, self.up.to(inputs.dtype)) * self.scale

    def product(self) -> Tensor:
        """Return the matrix that is added to the weight, alpha / rank x B A."""
        return self.up @ self.down * self.scale


class AdaptedLinear(nn.Module):
    """A frozen product of several outputs one below the other, some of which have an adapter.

    Args:
        base: the product.
        sizes: its outputs in order, by the names of the matrices they come from.
        adapter: rank, scale and targets.
    """

    def __init__(self, base: Linear, sizes: Mapping[str, int], adapter: Adapter) -> None:
        super().__init__()
        self.base = base
        self.sizes = dict(sizes)
        inputs = base.weight.shape[1]
        self.adapters = nn.ModuleDict(
            {name: LowRank(inputs, size, adapter) for name, size in sizes.items() if name in adapter.targets}
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the product with every adapter's part added."""
        outputs: Tensor = self.base(inputs)
        if len(self.sizes) == 1:
            whole: Tensor = outputs + next(iter(self.adapters.values()))(inputs)
            return whole
        parts = zip(self.sizes, torch.split(outputs, list(self.sizes.values()), dim=-1), strict=True)
        return torch.cat(
            [part + self.adapters[name](inputs) if name in self.adapters else part for name, part in parts], dim=-1
        )


def adapt(model: Gpt, sizes: ModelArchitecture, adapter: Adapter, device: torch.device) -> None:
    """Freeze the model and put adapters, without values yet, beside the products that are targets."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    query, key = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    rows = {"q_proj": query, "k_proj": key, "v_proj": key, "o_proj": sizes.hidden}
    rows |= {"gate_proj": sizes.ffn, "up_proj": sizes.ffn, "down_proj": sizes.hidden}
    for block in model.blocks:
        for place, products in MERGED.items():
            names = [product.rpartition(".")[2] for product in products]
            if not set(names) & set(adapter.targets):
                continue
            base = block.get_submodule(place)
            if not isinstance(base, Linear):
                raise TypeError(f"{place} is not a product")
            with device:
                adapted = AdaptedLinear(base, {name: rows[name] for name in names}, adapter)
            parent, _, child = place.rpartition(".")
            setattr(block.get_submodule(parent), child, adapted)


@torch.no_grad()
def fill_adapters(parts: Mapping[str, Part], seed: int) -> None:
    """Give adapters their first values: B is zero, so that they change nothing; A is uniform in +-1 / sqrt(inputs).

    A's range is that of PEFT (He et al., arXiv:1502.01852, with a = sqrt 5); the values follow from seed and name.
    """
    for name, part in parts.items():
        if name.endswith(".up"):
            part.tensor.zero_()
            continue
        generator = torch.Generator(device=part.tensor.device)
        generator.manual_seed(name_seed(name, seed))
        bound = 1.0 / math.sqrt(part.shape[1])
        part.tensor.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def merged_weight(module: AdaptedLinear) -> Tensor:
    """Return the one weight that computes the same as the product with its adapters."""
    weight = module.base.weight.float().clone()
    adapters = dict(module.adapters.items())
    for name, part in zip(module.sizes, torch.split(weight, list(module.sizes.values())), strict=True):
        adapter = adapters.get(name)
        if isinstance(adapter, LowRank):
            part.add_(adapter.product())
    return weight
