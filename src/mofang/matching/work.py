"""What is trained, free of the scenario it came from: the same columns for pre-training, fine-tuning and images."""

from __future__ import annotations

from dataclasses import dataclass

from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Adapter, Classify, Finetune, Pretrain, StrategyChoice, VisionModel
from mofang.domain.strategy import Method

__all__ = ["Work", "work_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One training task as the estimate sees it.

    ``sequence`` is the tokens that one sequence computes, padding included; ``useful`` the part of them that is data.
    ``steps`` or ``duration_s`` is set. ``methods`` are those to choose from. ``head_tokens`` is how many tokens of a
    sequence pass through the head: all of them in a language model, one in a classifier.
    """

    model: ModelArchitecture
    sequence: int
    global_batch: int
    steps: int | None = None
    duration_s: float | None = None
    methods: tuple[Method, ...] = (Method.FULL,)
    adapter: Adapter = Adapter()
    useful: float = 1.0
    causal: bool = True
    head_tokens: int | None = None  # None: all
    strategy: StrategyChoice = StrategyChoice()
    validate_every: int = 0
    validation_batches: int = 0


def work_of(task: Pretrain | Finetune | Classify) -> Work:
    """Return the work of a training task; tokens, not documents, are what steps are counted in."""
    if isinstance(task, Pretrain):
        return Work(
            model=task.model,
            sequence=task.sequence,
            global_batch=task.global_batch,
            steps=task.steps,
            duration_s=task.duration_s,
            strategy=task.strategy,
            validate_every=task.validate_every,
            validation_batches=task.validation_batches,
        )
    return _finetune_work(task) if isinstance(task, Finetune) else _classify_work(task)


def _finetune_work(task: Finetune) -> Work:
    return Work(
        model=task.model,
        sequence=task.sequence,
        global_batch=task.global_batch,
        steps=task.steps,
        duration_s=task.duration_s,
        methods=tuple(Method) if task.method is None else (task.method,),
        adapter=task.adapter,
        strategy=task.strategy,
        validate_every=task.validate_every,
        validation_batches=task.validation_batches,
    )


def _classify_work(task: Classify) -> Work:
    model = _as_transformer(task.model, task.data.num_classes)
    images = task.data.num_images * (1.0 - task.data.validation_fraction)
    steps = task.steps
    if steps is None and task.epochs is not None:
        steps = max(1, round(task.epochs * images / task.global_batch))
    return Work(
        model=model,
        sequence=task.model.sequence,
        global_batch=task.global_batch,
        steps=steps,
        duration_s=task.duration_s,
        causal=False,
        head_tokens=1,
        strategy=task.strategy,
        validate_every=task.validate_every,
        validation_batches=max(1, round(images * task.data.validation_fraction / task.global_batch)),
    )


def _as_transformer(model: VisionModel, classes: int) -> ModelArchitecture:
    """Return the sizes of a vision transformer's blocks, with its classes as the vocabulary."""
    return ModelArchitecture(
        name=model.name,
        layers=model.layers,
        hidden=model.hidden,
        heads=model.heads,
        kv_heads=model.heads,
        head_dim=model.hidden // model.heads,
        ffn=model.ffn,
        vocab=classes,
        max_sequence=model.sequence,
        gated_ffn=False,
        tied_embeddings=True,
        learned_positions=True,
        norm_bias=True,
    )
