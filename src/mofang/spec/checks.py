"""What cannot work on any hardware is refused when the file is read, with its arithmetic."""

from __future__ import annotations

from math import prod

from mofang.domain.hardware import CPU
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import StrategyChoice, TextData
from mofang.domain.strategy import Parallelism, Sharding
from mofang.errors import DataError, SpecError
from mofang.spec.context import Context
from mofang.spec.schema.body import JobFileBody
from mofang.spec.schema.serve import ServeFile
from mofang.spec.schema.train import StrategyKeys

__all__ = [
    "check_amount",
    "check_devices",
    "check_members",
    "check_sequence",
    "check_strategy",
    "check_vocabulary",
    "fixed_choice",
]

_DEGREES = ("dp", "tp", "pp", "cp")


def check_strategy(
    choice: StrategyKeys, context: Context, *, layers: int, heads: int, sequence: int, global_batch: int
) -> None:
    """Refuse a strategy that no hardware can run: degrees, batches and sizes that do not divide.

    Raises:
        SpecError: with the arithmetic.
    """
    check_devices(context, workers=choice.workers, threads=choice.threads)
    document = context.document
    with document.blame("strategy"):
        _check_degrees(choice.workers, {name: getattr(choice, name) for name in _DEGREES})
        if choice.sharding is Sharding.NONE and (choice.dp or _least_dp(choice)) > 1:
            raise SpecError(
                f"sharding none is for one data-parallel worker, not {choice.dp or _least_dp(choice)}",
                hint="write sharding: ddp or fsdp",
            )
    with document.blame("strategy", "tp"):
        _check_divides("heads", heads, "tp", choice.tp)
    with document.blame("strategy", "cp"):
        _check_divides("sequence", sequence, "cp", choice.cp)
    with document.blame("strategy", "pp"):
        if (choice.pp or 1) > layers:
            raise SpecError(f"pp = {choice.pp} stages need a layer each: the model has {layers}", hint="lower pp")
    with document.blame("train", "global_batch"):
        _check_batch(global_batch, choice.dp or _least_dp(choice), choice.micro_batch or 1)


def _least_dp(choice: StrategyKeys) -> int:
    """Return the data parallel size that follows from the workers where every other degree is fixed or 1."""
    others = (choice.tp or 1) * (choice.pp or 1) * (choice.cp or 1)
    unknown = [name for name in ("tp", "pp", "cp") if getattr(choice, name) is None]
    return (choice.workers or 1) // others if len(unknown) in {0, 3} else 1


def _check_degrees(workers: int | None, degrees: dict[str, int | None]) -> None:
    if workers is None:
        return
    fixed = {name: size for name, size in degrees.items() if size is not None}
    if len(fixed) == len(_DEGREES):
        Parallelism(**fixed).check(workers)
    elif workers % prod(fixed.values()):
        names, sizes = " x ".join(fixed), " x ".join(map(str, fixed.values()))
        raise SpecError(
            f"{names} does not divide workers: {workers} is not a multiple of {sizes} = {prod(fixed.values())}",
            hint="change one of the degrees, or the number of workers",
        )


def _check_divides(what: str, size: int, degree: str, ways: int | None) -> None:
    if ways and size % ways:
        raise SpecError(
            f"{degree} must divide {what}: {size} = {size // ways} x {ways} + {size % ways}", hint=f"change {degree}"
        )


def _check_batch(global_batch: int, dp: int, micro_batch: int) -> None:
    if global_batch % (dp * micro_batch):
        raise SpecError(
            f"the global batch is not a multiple of dp x micro-batch: {global_batch} = "
            f"{global_batch // (dp * micro_batch)} x ({dp} x {micro_batch}) + {global_batch % (dp * micro_batch)}",
            hint=f"choose a global batch that is a multiple of {dp * micro_batch}",
        )


def check_devices(context: Context, *, workers: int | None, threads: int | None) -> None:
    """Refuse a number of workers for which every request for devices is too small.

    Raises:
        SpecError: with the arithmetic.
    """
    resources = context.resources
    if workers is None or not resources.any_of:
        return
    needs = {str(request): workers * (threads or 1 if request.name == CPU else 1) for request in resources.any_of}
    most = {str(request): request.count.maximum for request in resources.any_of}
    if any(most[text] is None or needs[text] <= (most[text] or 0) for text in needs):
        return
    text, need = next(iter(needs.items()))
    each = f" x {need // workers} cores" if need != workers else ""
    with context.document.blame("resources"):
        raise SpecError(
            f"{workers} workers{each} need {need} devices, and {text} allows at most {most[text]}",
            hint=f"ask for more devices ({text.partition(':')[0]}:{need}) or fewer workers",
        )


def check_members(file: JobFileBody, context: Context) -> None:
    """Refuse spare or missing nodes where no job can have them.

    Raises:
        SpecError: a service, or fewer nodes at least than the job may have at most.
    """
    keys, most = file.restart, file.resources.nodes
    for name in ("spare_nodes", "min_nodes"):
        if isinstance(file, ServeFile) and getattr(keys, name):
            with context.document.blame("restart", name):
                raise SpecError(
                    f"a service has no {name}: each of its replicas is a whole", hint=f"leave {name} out of restart"
                )
    if keys.min_nodes is not None and most is not None and keys.min_nodes > most:
        with context.document.blame("restart", "min_nodes"):
            raise SpecError(
                f"min_nodes is more than the job is given: {keys.min_nodes} > {most} nodes",
                hint=f"write min_nodes: {most} or less, or ask for more nodes",
            )


def check_amount(data: TextData, sequence: int) -> None:
    """Refuse text that is shorter than one sequence, in either of its two parts (bytes are tokens here).

    Raises:
        DataError: with the figures.
    """
    size = data.size_bytes or 0
    validation = int(size * data.validation_fraction)
    if data.tokenizer == "bytes" and min(validation, size - validation) <= sequence:
        raise DataError(
            f"too little text: {size} bytes leave {size - validation} to train on and {validation} to validate with, "
            f"and one sequence takes {sequence + 1}",
            hint="give more text, a larger data.validation or a shorter train.sequence",
        )


def check_sequence(sequence: int, model: ModelArchitecture, context: Context) -> None:
    """Refuse sequences that the model was not made for.

    Raises:
        SpecError: with both lengths.
    """
    with context.document.blame("train", "sequence"):
        if sequence > model.max_sequence:
            raise SpecError(
                f"sequence {sequence} is longer than the model allows: {model.max_sequence}",
                hint=f"use {model.max_sequence} or less",
            )


def check_vocabulary(model: ModelArchitecture, vocabulary: int) -> None:
    """Refuse a tokenizer that makes tokens which the model does not know.

    Raises:
        SpecError: with both sizes.
    """
    if model.vocab < vocabulary:
        raise SpecError(
            f"the model's vocabulary of {model.vocab} is smaller than the tokenizer's of {vocabulary}",
            hint=f"use vocab: {vocabulary} or more, or another tokenizer",
        )


def fixed_choice(keys: StrategyKeys) -> StrategyChoice:
    """Return what the user fixed himself."""
    return StrategyChoice(**{name: getattr(keys, name) for name in type(keys).model_fields})
