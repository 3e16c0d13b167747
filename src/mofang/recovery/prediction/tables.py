"""Read CSV and Parquet files as plain columns."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mofang.errors import DataError

__all__ = ["Columns", "one_with", "read_tables"]

Columns = Mapping[str, Sequence[Any]]

_DAY_S = 86400.0


def read_tables(folder: Path) -> list[Columns]:
    """Return the columns of every CSV and Parquet file of a folder; times are days.

    Raises:
        DataError: one cannot be read, or is Parquet and nothing that reads it is installed.
    """
    return [_table(path) for path in sorted(folder.iterdir()) if path.suffix in {".csv", ".parquet"}]


def one_with(tables: Sequence[Columns], wanted: Sequence[str]) -> Columns | None:
    """Return the first table that has all these columns."""
    return next((table for table in tables if set(wanted) <= set(table)), None)


def _table(path: Path) -> Columns:
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
        return _parquet(path)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint="is it a whole CSV or Parquet file?") from error


def _parquet(path: Path) -> Columns:
    try:
        import pyarrow.parquet  # noqa: PLC0415 - an extra, and only Parquet files need it
    except ImportError as error:
        raise DataError(f"{path} is a Parquet file", hint="pip install 'mofang[predict]' to read it") from error
    read = pyarrow.parquet.read_table(path)
    return {name: _plain(read[name]) for name in read.column_names}


def _plain(column: Any) -> Any:
    import pyarrow  # noqa: PLC0415 - an extra, and only Parquet files need it

    if pyarrow.types.is_timestamp(column.type):
        days = column.cast(pyarrow.timestamp("us")).cast(pyarrow.int64()).to_numpy(zero_copy_only=False)
        return np.where(np.isnan(days), np.nan, days / 1e6 / _DAY_S) if days.dtype.kind == "f" else days / 1e6 / _DAY_S
    return column.to_pylist()
