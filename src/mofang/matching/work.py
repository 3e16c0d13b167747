"""What is trained, free of the scenario it came from: the same columns for pre-training, fine-tuning and images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Adapter, Classify, Finetune, Lengths, Pretrain, StrategyChoice, TextData, VisionModel
from mofang.domain.strategy import Method
from mofang.errors import SpecError
from mofang.matching.cuts import divisors
from mofang.matching.lengths import mean_length, packed_fraction, padded_length

__all__ = ["Work", "variants", "work_of"]

_TOKEN_BYTES = 4.0  # a token as it is stored
_TEXT_BYTES = 4.0  # of text in a token of a learned vocabulary: assumed, as of English


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One training task as the estimate sees it.

    ``sequence`` is the tokens that one sequence computes, padding included; ``useful`` the part of them that is data.
    ``steps`` or ``duration_s`` is set. ``methods`` are those to choose from. ``head_tokens`` is how many tokens of a
    sequence pass through the head: all of them in a language model, one in a classifier. ``longest`` is what the
    longest sequence computes, where they differ: memory must hold it. ``padded`` says that sequences are as long as
    the longest document of their micro-batch: see ``variants``.
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
    longest: int | None = None
    padded: Lengths | None = None
    sample_bytes: float = 0.0  # of one sequence or image, as it is read
    fused_attention: bool = True  # False: scores are written out, as before FlashAttention (arXiv:2205.14135)


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
            sample_bytes=_TOKEN_BYTES * task.sequence,
        )
    return _finetune_work(task) if isinstance(task, Finetune) else _classify_work(task)


def variants(work: Work) -> tuple[Work, ...]:
    """Return the work for each micro-batch that it may have, where sequences are as long as that makes them."""
    if work.padded is None:
        return (work,)
    fixed = work.strategy.micro_batch
    sizes = [size for size in divisors(work.global_batch) if fixed in {None, size}]
    return tuple(_padded(work, work.padded, size) for size in sizes)


def _padded(work: Work, lengths: Lengths, micro_batch: int) -> Work:
    """Return the work with sequences as long as the longest of so many documents, in whole eights of tokens."""
    most = work.longest or work.sequence
    sequence = 8 * math.ceil(padded_length(lengths, most, micro_batch) / 8)
    return replace(
        work,
        sequence=sequence,
        useful=mean_length(lengths, most) / sequence,
        strategy=replace(work.strategy, micro_batch=micro_batch),
    )


def _finetune_work(task: Finetune) -> Work:
    lengths = task.lengths
    work = Work(
        model=task.model,
        sequence=task.sequence,
        global_batch=task.global_batch,
        steps=task.steps,
        duration_s=task.duration_s,
        methods=tuple(Method) if task.method is None else (task.method,),
        adapter=task.adapter,
        useful=packed_fraction(lengths, task.sequence) if lengths is not None and task.packing else 1.0,
        strategy=task.strategy,
        validate_every=task.validate_every,
        validation_batches=task.validation_batches,
        sample_bytes=_TOKEN_BYTES * task.sequence,
    )
    if lengths is not None and not task.packing:
        longest = min(task.sequence, math.ceil(lengths.quantiles[-1]))
        work = replace(work, padded=lengths, longest=longest, useful=mean_length(lengths, longest) / task.sequence)
    if task.steps is None and task.epochs is not None:
        work = replace(work, steps=_epoch_steps(task.data, task.epochs, work))
    return work


def _epoch_steps(data: TextData, epochs: float, work: Work) -> int:
    """Return the steps of some passes over a text: its tokens over those that one step takes in.

    Raises:
        SpecError: the size of the text is not known.
    """
    if data.size_bytes is None:
        raise SpecError("epochs need the size of the data, which is not known here", hint="say how many steps instead")
    each = 1.0 if data.tokenizer == "bytes" else _TEXT_BYTES
    tokens = data.size_bytes * (1.0 - data.validation_fraction) / each
    return max(1, math.ceil(epochs * tokens / (work.global_batch * work.sequence * work.useful)))


def _classify_work(task: Classify) -> Work:
    model = _as_transformer(task.model, classes=task.data.num_classes, channels=task.data.channels)
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
        sample_bytes=float(task.model.image_size**2 * task.data.channels),
    )


def _as_transformer(model: VisionModel, *, classes: int, channels: int) -> ModelArchitecture:
    """Return a vision transformer with its classes as the vocabulary.

    The class token, the projection of patches and its bias are counted as rows of the table of positions.
    """
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
        extra_positions=model.patch_size**2 * channels + 2,
        attention_bias=True,
        output_bias=True,
        ffn_bias=True,
        norm_bias=True,
        lm_head_bias=True,
    )
