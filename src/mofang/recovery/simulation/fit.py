"""Fit the fault model to a trace of node faults: ``python -m mofang.recovery.simulation.fit [TRACE]``.

The trace is a CSV with ``start_day``, ``end_day`` (empty: repaired after the trace's end) and ``node``, as StepFun
published it (InfiniteHBD, arXiv:2502.03885). Writes ``data/faults.yaml`` beside this file.
"""

from __future__ import annotations

import csv
import os
import statistics
import sys
from itertools import pairwise
from pathlib import Path

import yaml

from mofang.errors import DataError
from mofang.recovery.simulation.faults import FaultModel

__all__ = ["fit_faults", "main"]

_HEADER = """\
# Written by `python -m mofang.recovery.simulation.fit` from a trace of 400 nodes of 8 devices that trained language
# models: how often a node fails, how bursty that is (coefficient of variation of the intervals), how long repairs last.
"""
_SOURCE = "StepFun, 400 nodes of 8 GPUs (InfiniteHBD, arXiv:2502.03885)"


def fit_faults(trace: Path, *, devices: int, source: str) -> FaultModel:
    """Return the model whose moments are those of a trace of so many devices.

    Repairs that had not ended when the trace did enter with the time seen so far, by the product-limit estimate
    (Kaplan and Meier, doi:10.1080/01621459.1958.10501452).

    Raises:
        DataError: the trace has under 20 faults, or a row without a start.
    """
    try:
        with trace.open(encoding="utf-8", newline="") as file:
            rows = [(float(row["start_day"]), _day(row["end_day"])) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{trace} is not a trace of faults: {error}", hint="its columns are start_day,end_day,node"
        ) from error
    if len(rows) < 20:
        raise DataError(f"{trace} has {len(rows)} faults", hint="give a trace with 20 or more")
    starts = sorted(start for start, _ in rows)
    last = max(starts[-1], *(end for _, end in rows if end is not None))
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    median, mean = _repairs([((last if end is None else end) - start, end is not None) for start, end in rows])
    months = (starts[-1] - starts[0]) / 30.0
    return FaultModel(
        per_1000_devices_month=round((len(starts) - 1) / months / devices * 1000.0, 2),
        interval_cv=round(statistics.pstdev(gaps) / statistics.fmean(gaps), 3),
        repair_median_h=round(24.0 * median, 2),
        repair_mean_h=round(24.0 * mean, 1),
        source=source,
    )


def main(words: list[str]) -> int:
    """Fit to the trace that was named, or to the reference data's, and write the coefficients."""
    root = os.environ.get("MOFANG_REFERENCE_DATA", "")
    if not words and not root:
        raise DataError("no trace was named and MOFANG_REFERENCE_DATA is not set", hint="name a trace of faults")
    trace = Path(words[0]) if words else Path(root, "faults", "stepfun_node_faults.csv")
    model = fit_faults(trace, devices=3200, source=_SOURCE)
    row = {name: getattr(model, name) for name in FaultModel.__dataclass_fields__}
    target = Path(__file__).parent / "data" / "faults.yaml"
    target.write_text(_HEADER + yaml.safe_dump(row, sort_keys=False), encoding="utf-8")
    return 0


def _day(text: str) -> float | None:
    return float(text) if text.strip() else None


def _repairs(lengths: list[tuple[float, bool]]) -> tuple[float, float]:
    """Return the median and the mean of lengths of which some were not seen to end: of the product-limit survival."""
    alive, passed, mean = 1.0, 0.0, 0.0
    median = max(length for length, _ in lengths)
    for left, (length, ended) in zip(range(len(lengths), 0, -1), sorted(lengths), strict=True):
        mean += alive * (length - passed)
        passed = length
        alive *= 1.0 - ended / left
        if alive <= 0.5:
            median = min(median, length)
    return median, mean


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
