"""How long a plan trains, and how often it saves."""

from __future__ import annotations

from mofang.domain.plan import Plan
from mofang.domain.scenario import Classify, Finetune, Pretrain
from mofang.errors import SpecError

__all__ = ["checkpoint_interval", "steps_of"]

_UNKNOWN_INTERVAL = 50  # steps between checkpoints where no step time is predicted


def steps_of(plan: Plan) -> int:
    """Return the plan's steps.

    Raises:
        SpecError: it does not say how many.
    """
    if plan.steps is None:
        raise SpecError("a plan for training must say how many steps to take")
    return plan.steps


def checkpoint_interval(task: Pretrain | Finetune | Classify, plan: Plan) -> int:
    """Return the steps between checkpoints: as asked, or those that take ``checkpoint_every_s`` by the prediction."""
    if task.checkpoint_every_steps is not None:
        return task.checkpoint_every_steps
    if plan.estimate is None or plan.estimate.step_time_s <= 0:
        return _UNKNOWN_INTERVAL
    return max(1, round(task.checkpoint_every_s / plan.estimate.step_time_s))
