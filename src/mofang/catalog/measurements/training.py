"""Rows of training measurements."""

from __future__ import annotations

from typing import Any

from mofang.catalog.measurements.architectures import architecture_of
from mofang.catalog.measurements.cells import BrokenRowError, Cells
from mofang.catalog.measurements.conventions import convention_of
from mofang.catalog.measurements.names import Names
from mofang.catalog.measurements.sizes import read_sizes
from mofang.catalog.measurements.words import (
    method_of,
    precision_of,
    recompute_of,
    sharding_of,
    yes_or_no,
)
from mofang.domain.measurement import TrainingMeasurement

__all__ = ["training_row"]

_COUNTS = ("tp", "pp", "cp", "ep", "dp", "vpp", "micro_batch", "global_batch")
_GBIT = 1e9 / 8  # bytes
_HIGHEST_FRACTION = 2.0  # FP8 runs are sometimes stated against the BF16 peak


def training_row(cells: Cells, names: Names) -> TrainingMeasurement:
    """Return the measurement of one row.

    Raises:
        BrokenRowError: a cell cannot be read, an essential one is empty, or the row is marked as suspect.
    """
    notes, written, task = cells.text("notes"), cells.required("accelerator"), cells.text("task", "pretrain")
    if "SUSPECT" in notes:
        raise BrokenRowError("marked SUSPECT by whoever collected it")
    sizes, chip = read_sizes(cells), names.chip(written)
    vendor = "" if chip is None else chip.vendor
    counts: dict[str, Any] = {name: cells.whole(name) for name in _COUNTS}
    framework, source_id = cells.text("framework"), cells.required("source_id")
    return TrainingMeasurement(
        source_id=source_id,
        source=cells.text("source"),
        line=cells.line,
        model=sizes.model,
        architecture=architecture_of(sizes, names.model(sizes.model, sizes.hidden)),
        accelerator="" if chip is None else chip.name,
        accelerator_text=written,
        num_devices=cells.whole("accel_count"),
        devices_per_node=cells.whole("accels_per_node"),
        framework=names.framework(framework, vendor=vendor, benchmark="mlperf" in task.casefold()),
        framework_text=framework,
        task=task,
        method=method_of(task),
        precision=precision_of(cells.text("precision")),
        precision_text=cells.text("precision"),
        sequence=sizes.sequence,
        **counts,
        sharding=sharding_of(cells.text("zero_stage_or_fsdp")),
        recompute=recompute_of(cells.text("recompute")),
        flash_attention=yes_or_no(cells.text("flash_attention")),
        inter_bandwidth=cells.scaled("interconnect_inter_gbps", _GBIT),
        tokens_per_s_per_device=cells.number("tokens_per_s_per_gpu"),
        step_time_s=cells.number("step_time_s"),
        flops_per_device=cells.scaled("tflops_per_gpu", 1e12),
        mfu=cells.number("mfu", _HIGHEST_FRACTION),
        hfu=cells.number("hfu", _HIGHEST_FRACTION),
        flop_convention=convention_of(cells.text("flops_convention"), source_id),
        memory_bytes=cells.scaled("mem_gib_per_gpu", 1e9 if _decimal_memory(notes) else 2**30),
        time_to_train_s=cells.scaled("time_to_train_min", 60.0),
        notes=notes,
    )


def _decimal_memory(notes: str) -> bool:
    return "memory column is GB" in notes or "Mem in GB" in notes
