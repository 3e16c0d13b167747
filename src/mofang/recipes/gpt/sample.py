"""Text that the trained model writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from mofang.domain.events import EventKind
from mofang.domain.recipe import FinetuneConfig, GptConfig
from mofang.recipes.gpt.model import Gpt
from mofang.recipes.gpt.tokenizer import Tokenizer
from mofang.recipes.training.run import Run

__all__ = ["generate", "tell_sample"]

_PROMPT_TOKENS = 32
_TEMPERATURE = 0.8
_CONTEXT = 128


def tell_sample(
    run: Run[GptConfig | FinetuneConfig], model: Gpt, tokenizer: Tokenizer, prompt: Callable[[int], Sequence[int]]
) -> None:
    """Let the trained model write as much as the task wants, and report it."""
    task = run.config.task
    if task.sample_tokens == 0:
        return
    run.reporter.phase("sample")
    model.eval()
    tokens = generate(model, prompt(_PROMPT_TOKENS), length=task.sample_tokens, sequence=task.sequence, seed=task.seed)
    run.reporter.tell(EventKind.SAMPLE, text=tokenizer.decode(tokens))


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
