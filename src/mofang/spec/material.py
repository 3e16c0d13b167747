"""What a job needs to run beside a plan, which planning alone can do without: weights, and something to train on."""

from __future__ import annotations

from mofang.domain.scenario import Classify, Finetune, Scenario, Serve
from mofang.errors import SpecError

__all__ = ["check_material"]


def check_material(scenario: Scenario) -> None:
    """Refuse to run what is only good to plan with.

    Raises:
        SpecError: the model is only known by its sizes, or there is nothing to train on.
    """
    task = scenario.task
    if isinstance(task, Finetune | Serve) and task.model_path is None:
        raise SpecError(
            f"{task.model.name} is only known by its sizes: running it needs its weights",
            hint="write model: the path of a folder with config.json, *.safetensors and tokenizer.json",
        )
    if isinstance(task, Classify) and not task.data.path:
        raise SpecError("there is nothing to train on: data.images is missing", hint="write data: {images: a folder}")
    if isinstance(task, Finetune) and not task.data.paths:
        raise SpecError("there is nothing to train on: data.text is missing", hint="write data: {text: [...]}")
