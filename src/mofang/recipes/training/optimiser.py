"""AdamW on this rank's part of every parameter, the learning-rate schedule, and gradient clipping.

``torch.optim.Optimizer`` loads torch's compiler when it is constructed, about half of a process's start-up time; the
functional form that it calls is public, does the same arithmetic and does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from mofang.domain.scenario import Optimisation
from mofang.recovery.checkpoint.state import Part, part_like

__all__ = ["AdamW", "clip", "learning_rate"]

_EPSILON = 1e-8


def learning_rate(settings: Optimisation, step: int, steps: int) -> float:
    """Return the rate of step ``step`` (from 0) of ``steps``: linear warm-up, then half a cosine (arXiv:1608.03983)."""
    warmup = min(settings.warmup_steps, steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    low = settings.lr * settings.min_lr_ratio
    return low + 0.5 * (settings.lr - low) * (1.0 + math.cos(math.pi * min(1.0, done)))


class AdamW:
    """Decoupled weight decay (arXiv:1711.05101); matrices decay, vectors do not.

    Args:
        parts: this rank's part of every parameter; gradients come in the same order.
        settings: rates and decay.
    """

    def __init__(self, parts: Mapping[str, Part], settings: Optimisation) -> None:
        self._parts = dict(parts)
        self._settings = settings
        self._first = {name: torch.zeros_like(part.tensor) for name, part in parts.items()}
        self._second = {name: torch.zeros_like(part.tensor) for name, part in parts.items()}
        self._groups = [
            ([name for name, part in parts.items() if (len(part.shape) > 1) == decays], decays)
            for decays in (True, False)
        ]
        self._steps = {
            name: torch.zeros((), dtype=torch.float32, device=part.tensor.device) for name, part in parts.items()
        }

    def state(self) -> dict[str, Part]:
        """Return the moments, cut as the parameters are."""
        return {
            f"{label}/{name}": part_like(table[name], part)
            for label, table in (("exp_avg", self._first), ("exp_avg_sq", self._second))
            for name, part in self._parts.items()
        }

    @torch.no_grad()
    def resume(self, steps: int) -> None:
        """Go on after this many steps: the correction of the moments' bias depends on their number."""
        for count in self._steps.values():
            count.fill_(steps)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], lr: float) -> None:
        """Update the parameters in place."""
        for names, decays in self._groups:
            held = [name for name in names if self._parts[name].tensor.numel()]
            if held:
                self._update(held, gradients, lr, self._settings.weight_decay if decays else 0.0)

    def _update(self, names: Sequence[str], gradients: Mapping[str, Tensor], lr: float, decay: float) -> None:
        adamw(
            [self._parts[name].tensor for name in names],
            [gradients[name] for name in names],
            [self._first[name] for name in names],
            [self._second[name] for name in names],
            [],
            [self._steps[name] for name in names],
            fused=True,
            amsgrad=False,
            beta1=self._settings.beta1,
            beta2=self._settings.beta2,
            lr=lr,
            weight_decay=decay,
            eps=_EPSILON,
            maximize=False,
        )


@torch.no_grad()
def clip(gradients: Sequence[Tensor], norm: Tensor, limit: float) -> None:
    """Scale the gradients so that their norm is at most ``limit``, without waiting for the norm's value."""
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(list(gradients), factor)
