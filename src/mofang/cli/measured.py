"""The tables of measurements: one row a measured configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mofang.units import show_duration

if TYPE_CHECKING:
    from mofang.domain.measurement import ServingMeasurement, TrainingMeasurement

    Row = TrainingMeasurement | ServingMeasurement

__all__ = ["measured_table"]


def measured_table(task: str) -> tuple[Sequence[str], Callable[[Any], list[str]]]:
    """Return the columns of training or of serving measurements, and what makes a row's cells."""
    return _TABLES[task]


def _chips(row: Row) -> str:
    return f"{row.num_devices or '?'} x {row.accelerator or row.accelerator_text}"


def _layout(row: Row) -> str:
    sizes = {name: getattr(row, name, None) for name in ("tp", "pp", "cp", "ep", "dp")}
    found = [f"{name}{size}" for name, size in sizes.items() if size is not None and size > 1]
    micro, batch = getattr(row, "micro_batch", None), getattr(row, "global_batch", None)
    found += [f"mb{micro}"] * (micro is not None) + [f"gb{batch}"] * (batch is not None)
    return " ".join(found) or "-"


def _training_cells(row: TrainingMeasurement) -> list[str]:
    precision = row.precision.value if row.precision else "-"
    return [
        row.model,
        _chips(row),
        row.framework or row.framework_text,
        precision,
        _layout(row),
        _speed(row),
        row.source_id,
    ]


def _speed(row: TrainingMeasurement) -> str:
    if row.tokens_per_s_per_device is not None:
        return f"{row.tokens_per_s_per_device:,.0f} tok/s"
    if row.step_time_s is not None:
        return f"{show_duration(row.step_time_s)}/step"
    if row.flops_per_device is not None:
        return f"{row.flops_per_device / 1e12:,.0f} TFLOP/s"
    if row.mfu is not None:
        return f"MFU {row.mfu:.0%}"
    return "-" if row.time_to_train_s is None else f"{show_duration(row.time_to_train_s)} in all"


def _serving_cells(row: ServingMeasurement) -> list[str]:
    lengths = f"{row.input_tokens or 0:.0f}/{row.output_tokens or 0:.0f}" if row.input_tokens else "-"
    load = "full" if row.concurrency is None else f"{row.concurrency:.0f}"
    each = row.tokens_per_s / row.num_devices if row.tokens_per_s and row.num_devices else None
    return [
        row.model,
        _chips(row),
        row.framework or row.framework_text,
        _layout(row),
        f"{lengths} @{load}",
        "-" if each is None else f"{each:,.0f}",
        _milliseconds(row.ttft_s),
        _milliseconds(row.tpot_s),
        row.source_id,
    ]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


_TABLES: dict[str, tuple[Sequence[str], Callable[[Any], list[str]]]] = {
    "training": (
        ["MODEL", "CHIPS", "FRAMEWORK", "FORMAT", "LAYOUT", "SPEED/CHIP", "SOURCE"],
        _training_cells,
    ),
    "serving": (
        ["MODEL", "CHIPS", "FRAMEWORK", "LAYOUT", "IN/OUT @LOAD", "TOK/S/CHIP", "TTFT", "TPOT", "SOURCE"],
        _serving_cells,
    ),
}
