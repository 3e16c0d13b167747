"""The cells of a measurement: numbers with their limits, and what was expected where one does not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mofang.catalog.measurements.records import Record

__all__ = ["BrokenRowError", "Cells"]


class BrokenRowError(ValueError):
    """What is wrong with a row, in words for the one who wrote it."""


class Cells:
    """A record's cells by column; an empty one is None. Every reader raises ``BrokenRowError`` with column and why."""

    __slots__ = ("_cells", "line")

    def __init__(self, record: Record) -> None:
        if record.broken:
            raise BrokenRowError(record.broken)
        self._cells: Mapping[str, str] = record.cells
        self.line = record.line

    def text(self, column: str, default: str = "") -> str:
        """Return the cell as written."""
        return self._cells.get(column, default)

    def required(self, column: str) -> str:
        """Return the cell, which must not be empty."""
        written = self._cells.get(column)
        if written is None:
            raise BrokenRowError(f"{column} is empty")
        return written

    def whole(self, column: str, minimum: int = 1) -> int | None:
        """Return a whole number of at least ``minimum``; ``64.0`` is one."""
        written = self._cells.get(column)
        if written is None:
            return None
        value = int(written) if written.isascii() and written.isdigit() else _float(written)
        if not math.isfinite(value) or value != int(value):
            raise _wrong(column, written, "a whole number")
        if not minimum <= value <= 10**15:
            raise _wrong(column, written, f"at least {minimum}")
        return int(value)

    def number(self, column: str, maximum: float = 1e18) -> float | None:
        """Return a positive number of at most ``maximum``."""
        written = self._cells.get(column)
        if written is None:
            return None
        value = _float(written)
        if math.isnan(value):
            raise _wrong(column, written, "a number")
        if not 0 < value <= maximum:
            raise _wrong(column, written, f"above 0 and at most {maximum:g}" if value > 0 else "above 0")
        return value

    def scaled(self, column: str, unit: float) -> float | None:
        """Return a positive number times the unit that the column is written in."""
        value = self.number(column)
        return None if value is None else value * unit


def _float(written: str) -> float:
    try:
        return float(written)
    except ValueError:
        return math.nan


def _wrong(column: str, written: str, expected: str) -> BrokenRowError:
    shown = written if len(written) <= 40 else f"{written[:37]}..."
    return BrokenRowError(f"{column}: {shown!r} is not {expected}")
