"""Estimates and rejections as rows of data, which faces turn into words and tables."""

from __future__ import annotations

from typing import Any

from mofang.domain.estimate import Estimate
from mofang.domain.reasons import Reason, Rejection

__all__ = ["estimate_rows", "rejection_row"]

_UNITS = {
    Reason.MEMORY: "bytes",
    Reason.DEADLINE: "seconds",
    Reason.BUDGET: "currency",
    Reason.BATCH: "sequences",
    Reason.NO_SUCH_DEVICE: "devices",
    Reason.TOO_FEW_DEVICES: "devices",
    Reason.PARALLELISM: "degree",
}


def estimate_rows(estimate: Estimate) -> list[dict[str, Any]]:
    """Return a row for each part of the step time and of the memory, largest first: of, part, value, share."""
    rows = []
    for of, parts, total in (
        ("time", estimate.time, estimate.step_time_s),
        ("memory", estimate.memory, estimate.memory_bytes),
    ):
        largest = sorted(parts.items(), key=lambda item: -item[1])
        rows += [
            {"of": of, "part": part, "value": value, "share": value / total if total else 0.0}
            for part, value in largest
            if value > 0
        ]
    return rows


def rejection_row(rejection: Rejection) -> dict[str, Any]:
    """Return a rejection with the unit of its figures and by how much it misses (need over have)."""
    known = rejection.need is not None and rejection.have
    return {
        "code": rejection.code.value,
        "what": rejection.what,
        "need": rejection.need,
        "have": rejection.have,
        "unit": _UNITS.get(rejection.code, ""),
        "ratio": rejection.need / rejection.have if known and rejection.need is not None and rejection.have else None,
        "hint": rejection.hint,
        "candidates": rejection.candidates,
    }
