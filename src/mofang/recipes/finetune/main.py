"""From a configuration to a fine-tuned model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import distributed

from mofang.catalog.huggingface.numerics import end_of_text
from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.recipe import FinetuneConfig
from mofang.errors import DataError, SpecError
from mofang.recipes.finetune.adapters import fill_adapters
from mofang.recipes.finetune.batches import FinetuneBatches, Side
from mofang.recipes.finetune.build import build
from mofang.recipes.finetune.corpus import Corpus, prepare_corpus
from mofang.recipes.finetune.export import export_adapter, export_model
from mofang.recipes.finetune.packing import Stretches, cut, one_each, pack, split
from mofang.recipes.gpt.build import Built
from mofang.recipes.gpt.sample import generate
from mofang.recipes.gpt.tokenizer import Tokenizer, open_tokenizer
from mofang.recipes.training.cache import recorded, remember
from mofang.recipes.training.group import Gate, choose_device, first_then_all, join_group, leave_group, open_store
from mofang.recipes.training.keeper import Keeper
from mofang.recipes.training.loop import Trainer
from mofang.recipes.training.optimiser import AdamW
from mofang.recipes.training.order import shuffled
from mofang.recipes.training.reporter import Reporter
from mofang.recipes.training.schedule import Schedule
from mofang.recovery.allocator import keep_freed_memory
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.worker import Worker
from mofang.spec.weights import Stored, check_weights, fingerprint

__all__ = ["run"]

_PROMPT_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One worker's run and what every part of it uses."""

    config: FinetuneConfig
    worker: Worker
    reporter: Reporter
    clock: Clock
    device: torch.device
    tokenizer: Tokenizer
    folder: Path
    stored: Mapping[str, Stored]


def run(config: FinetuneConfig, worker: Worker, clock: Clock) -> None:
    """Train as this worker of the job, to the end, and leave the result in ``config.output``.

    Raises:
        MofangError: with one clear line: no text, torn weights, no GPU, no usable checkpoint, a loss without end.
        SystemExit: with code 143 after SIGTERM.
    """
    if worker.world_size != config.strategy.parallelism.world_size:
        raise SpecError(f"the plan is for {config.strategy.parallelism.world_size} workers, not {worker.world_size}")
    keep_freed_memory()
    folder = Path(config.task.model_path or "")
    this = _Run(
        config=config,
        worker=worker,
        reporter=Reporter(worker, clock),
        clock=clock,
        device=choose_device(config.device, worker, threads=config.strategy.threads),
        tokenizer=open_tokenizer(config.task.data.tokenizer),
        folder=folder,
        stored=check_weights(folder, config.task.model),
    )
    _check_vocabulary(this)
    _check_base(this)
    store = open_store(worker)
    batches = _batches(this, _corpus(this, Gate(store, worker, clock, "data")))
    join_group(config.strategy.sharding, worker, store, this.device)
    try:
        _train(this, batches)
    finally:
        leave_group()


def _check_vocabulary(this: _Run) -> None:
    if this.tokenizer.vocab > this.config.task.model.vocab:
        raise DataError(
            f"the tokenizer makes {this.tokenizer.vocab} different tokens, the model knows "
            f"{this.config.task.model.vocab}",
            hint="use the tokenizer that the model was trained with",
        )


def _check_base(this: _Run) -> None:
    """Refuse to go on from other weights than the job began with; adapters fit only those they were trained beside.

    Raises:
        DataError: the files have changed.
    """
    if this.worker.checkpoint_dir is None:
        return
    record, now = this.worker.checkpoint_dir / "base.json", fingerprint(this.stored)
    if recorded(record) not in {None, now}:
        raise DataError(
            f"the weights in {this.folder} have changed since the job began",
            hint="put them back, or submit a new job to train the new ones",
        )
    if this.worker.rank == 0:
        remember(record, now)


def _corpus(this: _Run, gate: Gate) -> Corpus:
    """Rank 0 tokenizes; then the others find it done."""
    worker = this.worker
    prepare = partial(
        prepare_corpus,
        this.config.task.data,
        this.tokenizer,
        worker.data_dir or Path(tempfile.gettempdir()) / "mofang-data",
        end=end_of_text(this.folder),
        record=worker.checkpoint_dir / "data.json" if worker.checkpoint_dir else None,
        progress=this.reporter.building,
    )
    this.reporter.phase("data")
    return first_then_all(gate, worker, prepare)


def _batches(this: _Run, corpus: Corpus) -> FinetuneBatches:
    task, strategy = this.config.task, this.config.strategy
    train, validation = _sides(this, corpus)
    return FinetuneBatches(
        corpus.tokens,
        train,
        validation,
        length=task.sequence if task.packing else None,
        seed=task.seed,
        rank=this.worker.rank,
        world_size=this.worker.world_size,
        micro_batch=strategy.micro_batch,
        accumulation=strategy.accumulation,
        validation_rows=task.validation_batches * task.global_batch,
        device=this.device,
    )


def _sides(this: _Run, corpus: Corpus) -> tuple[Side, Side]:
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


def _side(this: _Run, stretches: Stretches) -> Side:
    task = this.config.task
    return Side.of(stretches, pack(stretches, sequence=task.sequence) if task.packing else one_each(stretches))


def _train(this: _Run, batches: FinetuneBatches) -> None:
    this.reporter.phase("build")
    built = build(this.config, this.folder, this.stored, this.device)
    optimiser = AdamW(built.layout.parts, this.config.task.optimisation)
    trainer = Trainer(
        _schedule(this.config, built),
        built.model,
        built.layout,
        optimiser=optimiser,
        batches=batches,
        keeper=_keeper(this, built, optimiser),
        worker=this.worker,
        reporter=this.reporter,
        clock=this.clock,
        device=this.device,
    )
    this.reporter.phase("load")
    if not trainer.resume() and this.config.adapted:
        _start(built, this.config.task.seed)
    trainer.run()
    if this.worker.rank == 0:
        _sample(this, built, batches)
        _export(this, built)


def _schedule(config: FinetuneConfig, built: Built) -> Schedule:
    task = config.task
    return Schedule(
        steps=config.steps,
        global_batch=task.global_batch,
        accumulation=config.strategy.accumulation,
        tokens=task.global_batch * task.sequence,
        params=sum(part.tensor.numel() for part in built.layout.parts.values()),
        optimisation=task.optimisation,
        flops=config.step_flops,
        peak_flops=config.peak_flops,
        seed=task.seed,
        log_every=task.log_every,
        validate_every=task.validate_every,
        save_every=config.save_every,
    )


def _keeper(this: _Run, built: Built, optimiser: AdamW) -> Keeper | None:
    if this.worker.checkpoint_dir is None or not this.config.saves:
        return None
    return Keeper(
        directory=this.worker.checkpoint_dir,
        keep=this.config.task.keep_checkpoints,
        parameters=built.layout.parts,
        optimiser=optimiser,
        peers=Peers(),
        reporter=this.reporter,
        clock=this.clock,
    )


def _start(built: Built, seed: int) -> None:
    """Give adapters their first values; replicas take rank 0's."""
    fill_adapters(built.layout.parts, seed)
    if distributed.is_initialized():
        for part in built.layout.parts.values():
            distributed.broadcast(part.tensor, src=0)


def _sample(this: _Run, built: Built, batches: FinetuneBatches) -> None:
    task = this.config.task
    if task.sample_tokens == 0:
        return
    this.reporter.phase("sample")
    built.model.eval()
    prompt = batches.prompt(_PROMPT_TOKENS)
    tokens = generate(built.model, prompt, length=task.sample_tokens, sequence=task.sequence, seed=task.seed)
    this.reporter.tell(EventKind.SAMPLE, text=this.tokenizer.decode(tokens))


def _export(this: _Run, built: Built) -> None:
    this.reporter.phase("export")
    output = Path(this.config.output)
    trained = {name: part.tensor for name, part in built.layout.parts.items()}
    if this.config.adapted:
        what, size = "adapter", export_adapter(trained, this.config.task.adapter, this.folder, output)
    else:
        what, size = "model", export_model(trained, this.stored, this.folder, output)
    this.reporter.tell(EventKind.EXPORTED, path=str(output), what=what, bytes=size)
