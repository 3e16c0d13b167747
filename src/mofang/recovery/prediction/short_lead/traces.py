"""Traces: the telemetry of a node up to a fault, or to an end without one; many of them in one compressed file."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mofang.errors import DataError
from mofang.recovery.telemetry.series import Series

__all__ = ["NO_FAULT", "Trace", "read_traces", "write_traces"]

NO_FAULT = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One node's telemetry and how it ended.

    Attributes:
        series: the samples, the last of them before the end.
        fault: the kind of fault that ended it; ``NO_FAULT``: none did.
        end: seconds on the scale of the series at which the fault struck, or observation ended.
        source: how the trace came about: injected, simulated or recorded.
        seed: what it was drawn from; traces of one seed belong together.
    """

    series: Series
    fault: str
    end: float
    source: str
    seed: int

    @property
    def failed(self) -> bool:
        """Whether a fault ended it."""
        return self.fault != NO_FAULT


def write_traces(path: Path, traces: Iterable[Trace]) -> None:
    """Write traces: for each a line of JSON, and its samples as CSV, values to five figures."""
    text = io.StringIO()
    for trace in traces:
        names = list(trace.series.columns)
        about = {"fault": trace.fault, "end": trace.end, "source": trace.source, "seed": trace.seed}
        text.write(json.dumps({**about, "rows": len(trace.series), "columns": names}) + "\n")
        table = np.stack([trace.series.time, *(trace.series.columns[name] for name in names)], axis=1)
        for row in table:
            text.write(f"{row[0]:.2f}," + ",".join("" if np.isnan(one) else f"{one:.5g}" for one in row[1:]) + "\n")
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def read_traces(path: Path) -> list[Trace]:
    """Return the traces of a file.

    Raises:
        DataError: it cannot be read, or holds no traces.
    """
    try:
        lines = iter(gzip.decompress(path.read_bytes()).decode().splitlines())
        return [_trace(json.loads(line), lines) for line in lines]
    except (OSError, EOFError, ValueError, KeyError, StopIteration) as error:
        raise DataError(f"{path} holds no traces: {error}", hint="make it with the inject command") from error


def _trace(about: dict[str, object], lines: Iterator[str]) -> Trace:
    names = [str(name) for name in about["columns"]]  # type: ignore[attr-defined]
    rows = [[float(cell or "nan") for cell in next(lines).split(",")] for _ in range(int(str(about["rows"])))]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(names) + 1)
    series = Series(time=table[:, 0], columns={name: table[:, at + 1] for at, name in enumerate(names)})
    return Trace(
        series=series,
        fault=str(about["fault"]),
        end=float(str(about["end"])),
        source=str(about["source"]),
        seed=int(str(about["seed"])),
    )
