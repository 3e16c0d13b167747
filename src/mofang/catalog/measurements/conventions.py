"""What a source counts as FLOP, checked against its own tokens/s where it states both."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from mofang.catalog.measurements.records import read_records
from mofang.catalog.table import DATA
from mofang.domain.measurement import FlopConvention

__all__ = ["convention_of"]

_FILE = DATA / "measurements" / "conventions.csv"


@cache
def convention_of(written: str, source_id: str = "") -> FlopConvention:
    """Return what the FLOP/s and MFU of a row count.

    Args:
        written: the row's own words. "model" says that recomputed work is not counted, and no more.
        source_id: the source, whose formula ``data/measurements/conventions.csv`` may know.
    """
    low = written.casefold()
    if low.startswith("hardware"):
        return FlopConvention.HARDWARE
    if not low:
        return FlopConvention.UNKNOWN
    known = next((found for start, found in _checked().items() if source_id.startswith(start)), None)
    if known is not None:
        return known
    if "palm" in low or "non-causal" in low:
        return FlopConvention.FULL_ATTENTION
    return FlopConvention.MODEL if low.startswith("model") else FlopConvention.UNKNOWN


@cache
def _checked() -> Mapping[str, FlopConvention]:
    rows = read_records(_FILE).records
    return {row.cells["source_id"]: FlopConvention(row.cells["flops_convention"]) for row in rows}
