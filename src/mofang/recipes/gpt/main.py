"""From a configuration to a finished run."""

from __future__ import annotations

from functools import partial

from mofang.clock import Clock
from mofang.domain.recipe import GptConfig
from mofang.domain.strategy import Sharding
from mofang.errors import DataError
from mofang.recipes.gpt.batches import Batches
from mofang.recipes.gpt.build import build, fill
from mofang.recipes.gpt.model import Gpt
from mofang.recipes.gpt.order import split_tokens
from mofang.recipes.gpt.sample import tell_sample
from mofang.recipes.gpt.tokenizer import Tokenizer, Tokens, open_tokenizer
from mofang.recipes.gpt.tokens import prepare_tokens
from mofang.recipes.training.group import open_store
from mofang.recipes.training.loop import train
from mofang.recipes.training.parallel import Built
from mofang.recipes.training.run import Run, begin
from mofang.recipes.training.schedule import Schedule
from mofang.recovery.worker import Worker

__all__ = ["run"]


def run(config: GptConfig, worker: Worker, clock: Clock) -> None:
    """Train as this worker of the job, to the end.

    Raises:
        MofangError: with one clear line: no text, no GPU, no usable checkpoint, a loss that is not finite.
        SystemExit: with code 143 after SIGTERM.
    """
    this = begin(config, worker, clock)
    tokenizer = open_tokenizer(config.task.data.tokenizer)
    store = open_store(worker, clock)
    tokens = this.data(store, partial(prepare_tokens, config.task.data, tokenizer)).tokens
    batches = _batches(this, tokenizer, tokens)
    with this.joined(store):
        _train(this, tokenizer, batches)


def _batches(this: Run[GptConfig], tokenizer: Tokenizer, tokens: Tokens) -> Batches:
    task = this.config.task
    if tokenizer.vocab > task.model.vocab:
        raise DataError(
            f"the tokenizer makes {tokenizer.vocab} different tokens, the model knows {task.model.vocab}",
            hint=f"set the model's vocab to {tokenizer.vocab} at least",
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
        share=this.share,
        validation_windows=task.validation_batches * task.global_batch,
        device=this.device,
    )


def _train(this: Run[GptConfig], tokenizer: Tokenizer, batches: Batches) -> None:
    config = this.config
    this.reporter.phase("build")
    built = build(config, this.device)
    train(this, _schedule(this), built, batches, start=partial(_start, config, built))
    # Sharded weights need every rank to write a sample; else rank 0 does it alone.
    if config.strategy.sharding is Sharding.FSDP or this.worker.rank == 0:
        tell_sample(this, built.model, tokenizer, batches.prompt)


def _schedule(this: Run[GptConfig]) -> Schedule:
    config, task = this.config, this.config.task
    tokens = task.global_batch * task.sequence
    return Schedule.of(
        config,
        this.share,
        tokens=tokens,
        params=task.model.params,
        flops=tokens * task.model.train_flops_per_token(task.sequence),
        fault_step=config.fault_step,
    )


def _start(config: GptConfig, built: Built[Gpt]) -> None:
    """Begin at step 0."""
    fill(built.layout.parts, layers=config.task.model.layers, seed=config.task.seed)
    built.layout.align()
