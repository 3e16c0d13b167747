"""Text that the trained model writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mofang.recipes.gpt.model import Gpt

__all__ = ["generate"]

_TEMPERATURE = 0.8
_CONTEXT = 128


@torch.no_grad()
def generate(model: Gpt, prompt: Sequence[int], *, length: int, sequence: int, seed: int) -> list[int]:
    """Return the prompt and ``length`` sampled tokens.

    Each token sees the last 128 at most: enough for a sample, and quick without a cache of keys and values.
    """
    device = model.get_buffer("cos").device
    generator = torch.Generator().manual_seed(seed)
    context = min(_CONTEXT, sequence)
    tokens = list(prompt)
    for _ in range(length):
        logits = model(torch.tensor([tokens[-context:]], device=device))[0, -1]
        chances = torch.softmax(logits.cpu() / _TEMPERATURE, dim=-1)
        tokens.append(int(torch.multinomial(chances, 1, generator=generator)))
    return tokens
