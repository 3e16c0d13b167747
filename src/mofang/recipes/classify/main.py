"""From a configuration to a trained classifier."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.recipe import ClassifyConfig
from mofang.recipes.classify.batches import ImageBatches, split_images
from mofang.recipes.classify.build import build
from mofang.recipes.classify.export import export_classifier
from mofang.recipes.classify.images import ImageSet, prepare_images
from mofang.recipes.classify.model import Vit
from mofang.recipes.training.group import open_store
from mofang.recipes.training.loop import Examination, train
from mofang.recipes.training.parallel import Built
from mofang.recipes.training.run import Run, begin
from mofang.recipes.training.schedule import Schedule
from mofang.recovery.worker import Worker

__all__ = ["run"]


def run(config: ClassifyConfig, worker: Worker, clock: Clock) -> None:
    """Train as this worker of the job, to the end, and leave the result in ``config.output``.

    Raises:
        MofangError: with one clear line: no images, no GPU, no usable checkpoint, a loss that is not finite.
        SystemExit: with code 143 after SIGTERM.
    """
    this = begin(config, worker, clock)
    store = open_store(worker, clock)
    images = this.data(store, partial(prepare_images, config.task.data, config.task.model))
    with this.joined(store):
        _train(this, images)


def _batches(this: Run[ClassifyConfig], images: ImageSet) -> ImageBatches:
    task = this.config.task
    fraction = task.data.validation_fraction if task.validate_every else 0.0
    train, validation = split_images(len(images), fraction=fraction, seed=task.seed)
    return ImageBatches(
        images,
        train,
        validation,
        augmentation=task.augmentation,
        seed=task.seed,
        share=this.share,
        device=this.device,
    )


def _train(this: Run[ClassifyConfig], images: ImageSet) -> None:
    this.reporter.phase("build")
    built = build(this.config, this.device)
    train(
        this,
        _schedule(this, built),
        built,
        _batches(this, images),
        start=built.layout.align,
        examination=Examination(names=("accuracy",), measure=built.model.examine),
    )
    if this.worker.rank == 0:
        _export(this, built, images)


def _schedule(this: Run[ClassifyConfig], built: Built[Vit]) -> Schedule:
    config = this.config
    return Schedule.of(
        config,
        this.share,
        tokens=config.task.global_batch * config.task.model.sequence,
        params=built.params,
        flops=config.step_flops,
    )


def _export(this: Run[ClassifyConfig], built: Built[Vit], images: ImageSet) -> None:
    this.reporter.phase("export")
    task, output = this.config.task, Path(this.config.output)
    trained = {name: part.tensor for name, part in built.layout.parts.items()}
    size = export_classifier(trained, task.model, task.data, images.names, output)
    this.reporter.tell(EventKind.EXPORTED, path=str(output), what="model", bytes=size)
