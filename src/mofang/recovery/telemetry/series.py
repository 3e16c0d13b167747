"""Time series read back as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mofang.errors import DataError
from mofang.recovery.telemetry.writer import TIME

__all__ = ["Series", "read_series", "series_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Samples of one node: seconds since the epoch, and columns of the same length, not-a-number where not measured."""

    time: NDArray[np.float64]
    columns: Mapping[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.time)

    def part(self, begin: int, end: int) -> Series:
        """Return some samples in a row."""
        columns = {name: column[begin:end] for name, column in self.columns.items()}
        return Series(time=self.time[begin:end], columns=columns)


def read_series(path: Path) -> Series:
    """Return the samples of a file; lines that a crash tore are skipped.

    Raises:
        DataError: the file cannot be read, or holds no time series.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="name a telemetry file of a run") from error
    rows: list[tuple[float, dict[str, float]]] = []
    names: list[str] | None = None
    for line in text.splitlines():
        cells = line.split(",")
        if cells[0] == TIME:
            names = cells[1:]
        elif names is not None and (row := _row(cells, names)) is not None:
            rows.append(row)
    if names is None:
        raise DataError(f"{path} holds no time series", hint="its first line names the columns: time,cpu.busy,...")
    return series_of(rows)


def _row(cells: list[str], names: list[str]) -> tuple[float, dict[str, float]] | None:
    try:
        time, *values = map(float, cells)
    except ValueError:
        return None
    return (time, dict(zip(names, values, strict=True))) if len(values) == len(names) else None


def series_of(rows: Sequence[tuple[float, Mapping[str, float]]]) -> Series:
    """Return samples, each a time and its values, as columns."""
    known = dict.fromkeys(name for _, sample in rows for name in sample)
    columns = {name: np.full(len(rows), np.nan) for name in known}
    for place, (_, sample) in enumerate(rows):
        for name, value in sample.items():
            columns[name][place] = value
    return Series(time=np.array([time for time, _ in rows], dtype=np.float64), columns=columns)
