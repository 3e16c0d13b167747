"""Serving."""

from __future__ import annotations

from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Serve, ServiceLevel, Traffic
from mofang.spec.architecture import published_model
from mofang.spec.checks import check_devices, fixed_choice
from mofang.spec.context import Context
from mofang.spec.schema.serve import ServeFile
from mofang.spec.weights import stored_weights

__all__ = ["serve_task"]


def serve_task(file: ServeFile, context: Context) -> Serve:
    """Return the task.

    Raises:
        MofangError: the model is unknown or its folder damaged, or the figures do not fit each other.
    """
    with context.document.blame("model"):
        model, folder = published_model(file.model, base_dir=context.base_dir, catalog=context.catalog)
        if folder is not None:
            stored_weights(folder)
    traffic = _traffic(file, context)
    check_devices(context, workers=file.strategy.workers, threads=file.strategy.threads)
    _check_lengths(file, context, traffic, model)
    return Serve(
        model=model,
        model_path=None if folder is None else str(folder),
        traffic=traffic,
        level=ServiceLevel(ttft_s=file.slo.ttft, tpot_s=file.slo.tpot, percentile=file.slo.percentile),
        precision=file.precision,
        kv_precision=file.kv_precision,
        disaggregated=file.disaggregated,
        strategy=fixed_choice(file.strategy),
        port=file.port,
        max_sequence=file.max_sequence,
        seed=file.seed,
    )


def _traffic(file: ServeFile, context: Context) -> Traffic:
    keys = file.traffic
    if keys.rate is not None and keys.concurrency is not None:
        raise context.document.error(
            ("traffic", "concurrency"), "rate and concurrency exclude each other", "keep one of them"
        )
    return Traffic(
        input=keys.input,
        output=keys.output,
        rate=keys.rate,
        concurrency=keys.concurrency,
        prefix_hit=keys.prefix_hit,
    )


def _check_lengths(file: ServeFile, context: Context, traffic: Traffic, model: ModelArchitecture) -> None:
    longest = int(traffic.input.quantiles[-1] + traffic.output.quantiles[-1])
    if file.max_sequence is not None:
        if file.max_sequence > model.max_sequence:
            raise context.document.error(
                ("max_sequence",),
                f"{file.max_sequence} is longer than the model allows: {model.max_sequence}",
                f"use {model.max_sequence} or less",
            )
        if file.max_sequence < longest:
            raise context.document.error(
                ("max_sequence",),
                f"{file.max_sequence} is shorter than the longest prompt and answer together: {longest}",
                f"use {longest} or more, or shorter traffic",
            )
    if longest > model.max_sequence:
        raise context.document.error(
            ("traffic",),
            f"the longest prompt and answer are {longest} tokens together, and the model allows {model.max_sequence}",
            "shorten traffic.input or traffic.output",
        )
