"""Rows of serving measurements."""

from __future__ import annotations

from mofang.catalog.measurements.architectures import architecture_of
from mofang.catalog.measurements.cells import BrokenRowError, Cells
from mofang.catalog.measurements.names import Names
from mofang.catalog.measurements.sizes import Sizes
from mofang.catalog.measurements.words import precision_of, token_count_of
from mofang.domain.measurement import ServingMeasurement

__all__ = ["serving_row"]


def serving_row(cells: Cells, names: Names) -> ServingMeasurement:
    """Return the measurement of one row.

    Raises:
        BrokenRowError: a cell cannot be read, an essential one is empty, or the row is marked as one not to use.
    """
    notes, written, source_id = cells.text("notes"), cells.required("accelerator"), cells.required("source_id")
    _check_marks(notes)
    model, chip, framework = cells.required("model"), names.chip(written), cells.text("framework")
    benchmark = source_id.casefold().startswith("mlperf")
    vendor = "" if chip is None else chip.vendor
    count = cells.whole("accel_count", minimum=0) or None  # 0: a machine without accelerators
    tp, dp = cells.whole("tp"), cells.whole("dp")
    return ServingMeasurement(
        source_id=source_id,
        source=cells.text("source"),
        line=cells.line,
        model=model,
        architecture=architecture_of(Sizes(model=model, params=cells.scaled("params_b", 1e9)), names.model(model)),
        accelerator="" if chip is None else chip.name,
        accelerator_text=written,
        num_devices=count,
        framework=names.framework(framework, vendor=vendor, benchmark=benchmark, serving=True),
        framework_text=framework,
        version=cells.text("version"),
        precision=precision_of(cells.text("precision_weights")),
        precision_text=cells.text("precision_weights"),
        kv_precision=precision_of(cells.text("precision_kv")),
        scenario=cells.text("scenario", "online"),
        tp=tp,
        pp=cells.whole("pp"),
        ep=_expert_ranks(cells, tp, dp),
        dp=dp,
        input_tokens=cells.number("input_len"),
        output_tokens=cells.number("output_len"),
        concurrency=cells.number("concurrency_or_batch"),
        tokens_per_s=_throughput(cells, count),
        token_count=token_count_of(cells.text("output_or_total_tokens")),
        ttft_s=cells.scaled("ttft_ms", 1e-3),
        tpot_s=cells.scaled("tpot_ms", 1e-3),
        notes=notes,
    )


def _check_marks(notes: str) -> None:
    for mark, why in (
        ("SUSPECT", "marked SUSPECT by whoever collected it"),
        ("OPEN DIVISION", "OPEN DIVISION: its model may be altered"),
    ):
        if mark in notes:
            raise BrokenRowError(why)


def _expert_ranks(cells: Cells, tp: int | None, dp: int | None) -> int | None:
    """Return over how many devices experts lie: ``on`` means all of them, 0 means none."""
    written = cells.text("ep").casefold()
    if written in {"on", "yes", "true"}:
        return (tp or 1) * (dp or 1)
    if written in {"off", "no", "false"}:
        return 1
    ranks = cells.whole("ep", minimum=0)
    return 1 if ranks == 0 else ranks


def _throughput(cells: Cells, count: int | None) -> float | None:
    total, each = cells.number("throughput_tok_s_total"), cells.number("throughput_tok_s_per_gpu")
    return total if total is not None or each is None or count is None else each * count
