"""From a configuration to a trained classifier."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import distributed

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.recipe import ClassifyConfig
from mofang.errors import SpecError
from mofang.recipes.classify.batches import ImageBatches, split_images
from mofang.recipes.classify.build import Built, build
from mofang.recipes.classify.export import export_classifier
from mofang.recipes.classify.images import ImageSet, prepare_images
from mofang.recipes.training.group import Gate, choose_device, first_then_all, join_group, leave_group, open_store
from mofang.recipes.training.keeper import Keeper
from mofang.recipes.training.loop import Examination, Trainer
from mofang.recipes.training.optimiser import AdamW
from mofang.recipes.training.reporter import Reporter
from mofang.recipes.training.schedule import Schedule
from mofang.recovery.allocator import keep_freed_memory
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.worker import Worker

__all__ = ["run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One worker's run and what every part of it uses."""

    config: ClassifyConfig
    worker: Worker
    reporter: Reporter
    clock: Clock
    device: torch.device


def run(config: ClassifyConfig, worker: Worker, clock: Clock) -> None:
    """Train as this worker of the job, to the end, and leave the result in ``config.output``.

    Raises:
        MofangError: with one clear line: no images, no GPU, no usable checkpoint, a loss that is not finite.
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
    )
    store = open_store(worker)
    images = _images(this, Gate(store, worker, clock, "data"))
    join_group(config.strategy.sharding, worker, store, this.device)
    try:
        _train(this, images)
    finally:
        leave_group()


def _images(this: _Run, gate: Gate) -> ImageSet:
    """Rank 0 scales the images; then the others find it done."""
    worker, task = this.worker, this.config.task
    prepare = partial(
        prepare_images,
        task.data,
        task.model,
        worker.data_dir or Path(tempfile.gettempdir()) / "mofang-data",
        record=worker.checkpoint_dir / "data.json" if worker.checkpoint_dir else None,
        progress=this.reporter.building,
    )
    this.reporter.phase("data")
    return first_then_all(gate, worker, prepare)


def _batches(this: _Run, images: ImageSet) -> ImageBatches:
    task, strategy = this.config.task, this.config.strategy
    fraction = task.data.validation_fraction if task.validate_every else 0.0
    train, validation = split_images(len(images), fraction=fraction, seed=task.seed)
    return ImageBatches(
        images,
        train,
        validation,
        augmentation=task.augmentation,
        seed=task.seed,
        rank=this.worker.rank,
        world_size=this.worker.world_size,
        micro_batch=strategy.micro_batch,
        accumulation=strategy.accumulation,
        device=this.device,
    )


def _train(this: _Run, images: ImageSet) -> None:
    this.reporter.phase("build")
    built = build(this.config, this.device)
    optimiser = AdamW(built.layout.parts, this.config.task.optimisation)
    trainer = Trainer(
        _schedule(this.config, built),
        built.model,
        built.layout,
        optimiser=optimiser,
        batches=_batches(this, images),
        keeper=_keeper(this, built, optimiser),
        worker=this.worker,
        reporter=this.reporter,
        clock=this.clock,
        device=this.device,
        examination=Examination(names=("accuracy",), measure=built.model.examine),
    )
    this.reporter.phase("load")
    if not trainer.resume() and distributed.is_initialized():
        for part in built.layout.parts.values():  # processors may differ in the last bit of a random number
            distributed.broadcast(part.tensor, src=0)
    trainer.run()
    if this.worker.rank == 0:
        _export(this, built, images)


def _schedule(config: ClassifyConfig, built: Built) -> Schedule:
    task = config.task
    return Schedule(
        steps=config.steps,
        global_batch=task.global_batch,
        accumulation=config.strategy.accumulation,
        tokens=task.global_batch * task.model.sequence,
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


def _export(this: _Run, built: Built, images: ImageSet) -> None:
    this.reporter.phase("export")
    task, output = this.config.task, Path(this.config.output)
    trained = {name: part.tensor for name, part in built.layout.parts.items()}
    size = export_classifier(trained, task.model, task.data, images.names, output)
    this.reporter.tell(EventKind.EXPORTED, path=str(output), what="model", bytes=size)
