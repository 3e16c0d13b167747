"""From a configuration to a fine-tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mofang.catalog.huggingface.numerics import end_of_text
from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.recipe import FinetuneConfig
from mofang.errors import DataError
from mofang.recipes.finetune.adapters import fill_adapters
from mofang.recipes.finetune.batches import FinetuneBatches, Side
from mofang.recipes.finetune.build import build
from mofang.recipes.finetune.corpus import Corpus, prepare_corpus
from mofang.recipes.finetune.export import export_adapter, export_model
from mofang.recipes.finetune.packing import Stretches, cut, one_each, pack, split
from mofang.recipes.gpt.model import Gpt
from mofang.recipes.gpt.sample import tell_sample
from mofang.recipes.gpt.tokenizer import Tokenizer, open_tokenizer
from mofang.recipes.training.cache import recorded, remember
from mofang.recipes.training.group import open_store
from mofang.recipes.training.loop import train
from mofang.recipes.training.order import shuffled
from mofang.recipes.training.parallel import Built
from mofang.recipes.training.run import Run, begin
from mofang.recipes.training.schedule import Schedule
from mofang.recovery.worker import Worker
from mofang.spec.weights import Stored, check_weights, fingerprint

__all__ = ["run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """The published model that is trained further."""

    folder: Path
    tokenizer: Tokenizer
    stored: Mapping[str, Stored]


def run(config: FinetuneConfig, worker: Worker, clock: Clock) -> None:
    """Train as this worker of the job, to the end, and leave the result in ``config.output``.

    Raises:
        MofangError: with one clear line: no text, torn weights, no GPU, no usable checkpoint, a loss without end.
        SystemExit: with code 143 after SIGTERM.
    """
    this = begin(config, worker, clock)
    base = _base(this)
    store = open_store(worker, clock)
    prepare = partial(prepare_corpus, config.task.data, base.tokenizer, end=end_of_text(base.folder))
    batches = _batches(this, this.data(store, prepare))
    with this.joined(store):
        _train(this, base, batches)


def _base(this: Run[FinetuneConfig]) -> _Base:
    task, folder = this.config.task, Path(this.config.task.model_path or "")
    base = _Base(folder=folder, tokenizer=open_tokenizer(task.data.tokenizer), stored=check_weights(folder, task.model))
    _check_vocabulary(this, base)
    _check_base(this, base)
    return base


def _check_vocabulary(this: Run[FinetuneConfig], base: _Base) -> None:
    if base.tokenizer.vocab > this.config.task.model.vocab:
        raise DataError(
            f"the tokenizer makes {base.tokenizer.vocab} different tokens, the model knows "
            f"{this.config.task.model.vocab}",
            hint="use the tokenizer that the model was trained with",
        )


def _check_base(this: Run[FinetuneConfig], base: _Base) -> None:
    """Refuse to go on from other weights than the job began with; adapters fit only those they were trained beside.

    Raises:
        DataError: the files have changed.
    """
    if this.worker.checkpoint_dir is None:
        return
    record, now = this.worker.checkpoint_dir / "base.json", fingerprint(base.stored)
    if recorded(record) not in {None, now}:
        raise DataError(
            f"the weights in {base.folder} have changed since the job began",
            hint="put them back, or submit a new job to train the new ones",
        )
    if this.worker.rank == 0:
        remember(record, now)


def _batches(this: Run[FinetuneConfig], corpus: Corpus) -> FinetuneBatches:
    task = this.config.task
    train, validation = _sides(this, corpus)
    return FinetuneBatches(
        corpus.tokens,
        train,
        validation,
        length=task.sequence if task.packing else None,
        seed=task.seed,
        share=this.share,
        validation_rows=task.validation_batches * task.global_batch,
        device=this.device,
    )


def _sides(this: Run[FinetuneConfig], corpus: Corpus) -> tuple[Side, Side]:
    task = this.config.task
    order = shuffled(len(corpus), task.seed)
    stretches, lost = cut(corpus.starts, corpus.prompts, order, sequence=task.sequence)
    if not len(stretches):
        raise DataError(
            f"none of {len(corpus)} documents has anything to learn within {task.sequence} tokens",
            hint="give more text, or a longer train.sequence",
        )
    train, kept = split(stretches, task.data.validation_fraction if task.validate_every else 0.0)
    sides = _side(this, train), _side(this, kept)
    detail = f"{len(corpus):,} documents, {len(sides[0].rows):,} sequences to train on, {len(sides[1].rows):,} kept"
    this.reporter.phase("data", detail=detail + (f"; {lost:,} prompts leave no room for a response" if lost else ""))
    return sides


def _side(this: Run[FinetuneConfig], stretches: Stretches) -> Side:
    task = this.config.task
    return Side.of(stretches, pack(stretches, sequence=task.sequence) if task.packing else one_each(stretches))


def _train(this: Run[FinetuneConfig], base: _Base, batches: FinetuneBatches) -> None:
    config = this.config
    this.reporter.phase("build")
    built = build(config, base.folder, base.stored, this.device)
    train(this, _schedule(this, built), built, batches, start=partial(_start, config, built))
    if this.worker.rank == 0:
        tell_sample(this, built.model, base.tokenizer, batches.prompt)
        _export(this, base, built)


def _schedule(this: Run[FinetuneConfig], built: Built[Gpt]) -> Schedule:
    config = this.config
    return Schedule.of(
        config,
        this.share,
        tokens=config.task.global_batch * config.task.sequence,
        params=built.params,
        flops=config.step_flops,
    )


def _start(config: FinetuneConfig, built: Built[Gpt]) -> None:
    """Give adapters their first values; all weights have theirs from the folder."""
    if config.adapted:
        fill_adapters(built.layout.parts, config.task.seed)
        built.layout.align()


def _export(this: Run[FinetuneConfig], base: _Base, built: Built[Gpt]) -> None:
    this.reporter.phase("export")
    output = Path(this.config.output)
    trained = {name: part.tensor for name, part in built.layout.parts.items()}
    if this.config.adapted:
        what, size = "adapter", export_adapter(trained, this.config.task.adapter, base.folder, output)
    else:
        what, size = "model", export_model(trained, base.stored, base.folder, output)
    this.reporter.tell(EventKind.EXPORTED, path=str(output), what=what, bytes=size)
