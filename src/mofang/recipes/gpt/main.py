"""From a configuration to a finished run."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import distributed

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.recipe import GptConfig
from mofang.domain.strategy import Sharding
from mofang.errors import DataError, SpecError
from mofang.recipes.gpt.batches import Batches
from mofang.recipes.gpt.build import Built, build, fill
from mofang.recipes.gpt.order import split_tokens
from mofang.recipes.gpt.sample import generate
from mofang.recipes.gpt.tokenizer import Tokenizer, Tokens, open_tokenizer
from mofang.recipes.gpt.tokens import prepare_tokens
from mofang.recipes.training.group import Gate, choose_device, first_then_all, join_group, leave_group, open_store
from mofang.recipes.training.keeper import Keeper
from mofang.recipes.training.loop import Trainer
from mofang.recipes.training.optimiser import AdamW
from mofang.recipes.training.reporter import Reporter
from mofang.recipes.training.schedule import Schedule
from mofang.recovery.allocator import keep_freed_memory
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.worker import Worker

__all__ = ["run"]

_PROMPT_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One worker's run and what every part of it uses."""

    config: GptConfig
    worker: Worker
    reporter: Reporter
    clock: Clock
    device: torch.device
    tokenizer: Tokenizer


def run(config: GptConfig, worker: Worker, clock: Clock) -> None:
    """Train as this worker of the job, to the end.

    Raises:
        MofangError: with one clear line: no text, no GPU, no usable checkpoint, a loss that is not finite.
        SystemExit: with code 143 after SIGTERM.
    """
    if worker.world_size != config.strategy.parallelism.world_size:
        raise SpecError(f"the plan is for {config.strategy.parallelism.world_size} workers, not {worker.world_size}")
    keep_freed_memory()
    this = _Run(
        config=config,
        worker=worker,
        reporter=Reporter(worker, clock),
        clock=clock,
        device=choose_device(config.device, worker, threads=config.strategy.threads),
        tokenizer=open_tokenizer(config.task.data.tokenizer),
    )
    store = open_store(worker)
    batches = _batches(this, _tokens(this, Gate(store, worker, clock, "data")))
    join_group(config.strategy.sharding, worker, store, this.device)
    try:
        _train(this, batches)
    finally:
        leave_group()


def _tokens(this: _Run, gate: Gate) -> Tokens:
    """Rank 0 builds the token file; then the others find it, without a look at the text."""
    worker = this.worker
    prepare = partial(
        prepare_tokens,
        this.config.task.data,
        this.tokenizer,
        worker.data_dir or Path(tempfile.gettempdir()) / "mofang-data",
        record=worker.checkpoint_dir / "data.json" if worker.checkpoint_dir else None,
        progress=this.reporter.building,
    )
    this.reporter.phase("data")
    return first_then_all(gate, worker, prepare).tokens


def _batches(this: _Run, tokens: Tokens) -> Batches:
    task, strategy = this.config.task, this.config.strategy
    if this.tokenizer.vocab > task.model.vocab:
        raise DataError(
            f"the tokenizer makes {this.tokenizer.vocab} different tokens, the model knows {task.model.vocab}",
            hint=f"set the model's vocab to {this.tokenizer.vocab} at least",
        )
    fraction = task.data.validation_fraction if task.validate_every else 0.0
    split = split_tokens(len(tokens), sequence=task.sequence, fraction=fraction, seed=task.seed)
    if split is None:
        raise DataError(
            f"{len(tokens)} tokens of text are too few for sequences of {task.sequence}",
            hint="give more text, or shorten the sequence",
        )
    return Batches(
        tokens,
        split,
        rank=this.worker.rank,
        world_size=this.worker.world_size,
        micro_batch=strategy.micro_batch,
        accumulation=strategy.accumulation,
        validation_windows=task.validation_batches * task.global_batch,
        device=this.device,
    )


def _train(this: _Run, batches: Batches) -> None:
    this.reporter.phase("build")
    built = build(this.config, this.device)
    optimiser = AdamW(built.layout.parts, this.config.task.optimisation)
    trainer = Trainer(
        _schedule(this.config),
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
    if not trainer.resume():
        _start(this.config, built)
    trainer.run()
    _sample(this, built, batches)


def _schedule(config: GptConfig) -> Schedule:
    task = config.task
    tokens = task.global_batch * task.sequence
    return Schedule(
        steps=config.steps,
        global_batch=task.global_batch,
        accumulation=config.strategy.accumulation,
        tokens=tokens,
        params=task.model.params,
        optimisation=task.optimisation,
        flops=tokens * task.model.train_flops_per_token(task.sequence),
        peak_flops=config.peak_flops,
        seed=task.seed,
        log_every=task.log_every,
        validate_every=task.validate_every,
        save_every=config.save_every,
        fault_step=config.fault_step,
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


def _start(config: GptConfig, built: Built) -> None:
    """Begin at step 0. Replicas take rank 0's values: processors may differ in the last bit of a random number."""
    fill(built.layout.parts, layers=config.task.model.layers, seed=config.task.seed)
    if distributed.is_initialized() and config.strategy.sharding is not Sharding.FSDP:
        for part in built.layout.parts.values():
            distributed.broadcast(part.tensor, src=0)


def _sample(this: _Run, built: Built, batches: Batches) -> None:
    """Let the model write. Sharded weights need every rank for that; else rank 0 does it alone."""
    task = this.config.task
    alone = this.config.strategy.sharding is not Sharding.FSDP
    if task.sample_tokens == 0 or (alone and this.worker.rank != 0):
        return
    this.reporter.phase("sample")
    prompt = batches.prompt(_PROMPT_TOKENS)
    tokens = generate(built.model, prompt, length=task.sample_tokens, sequence=task.sequence, seed=task.seed)
    this.reporter.tell(EventKind.SAMPLE, text=this.tokenizer.decode(tokens))
