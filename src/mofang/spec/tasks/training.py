"""What the training tasks share: how long, the optimiser's settings, how often to save."""

from __future__ import annotations

from typing import Any

from mofang.domain.scenario import LossPolicy, Optimisation
from mofang.spec.context import Context
from mofang.spec.schema.train import TrainKeys

__all__ = ["optimisation_of", "require_one_length", "shared_settings"]

_CHECKPOINT_EVERY_S = 15.0  # has no effect where checkpoints are counted in steps


def require_one_length(train: TrainKeys, context: Context, ways: dict[str, str]) -> None:
    """Refuse a file that does not say how long to train, or says it twice.

    Args:
        train: the keys.
        context: the file.
        ways: the keys that say how long, with an example of each.

    Raises:
        SpecError: none of them is given, or more than one.
    """
    given = [name for name in ways if getattr(train, name) is not None]
    if len(given) != 1:
        what = f"{' and '.join(given)} exclude each other" if given else "how long to train is missing"
        path = ("train", given[-1]) if given else ("train",)
        *most, last = (f"{name}: {example}" for name, example in ways.items())
        raise context.document.error(path, what, f"write one of {', '.join(most)} and {last}")


def optimisation_of(train: TrainKeys, lr: float) -> Optimisation:
    """Return AdamW's settings with this learning rate."""
    return Optimisation(
        lr=lr,
        min_lr_ratio=train.min_lr_ratio,
        warmup_steps=train.warmup,
        weight_decay=train.weight_decay,
        beta1=train.beta1,
        beta2=train.beta2,
        clip_norm=train.clip,
    )


def shared_settings(train: TrainKeys) -> dict[str, Any]:
    """Return the fields that every training task has in common."""
    every = train.checkpoint_every
    return {
        "steps": train.steps,
        "duration_s": train.duration,
        "checkpoint_every_steps": every if isinstance(every, int) else None,
        "checkpoint_every_s": every if isinstance(every, float) else _CHECKPOINT_EVERY_S,
        "keep_checkpoints": train.keep_checkpoints,
        "validate_every": train.validate_every,
        "log_every": train.log_every,
        "loss_policy": LossPolicy(on_not_finite=train.on_nan, on_spike=train.on_spike, roll_backs=train.roll_backs),
        "seed": train.seed,
    }
