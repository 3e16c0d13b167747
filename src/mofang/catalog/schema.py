"""The columns of a table: which there are, how each is read, and what is wrong with a row that does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mofang.catalog.names import key, nearest
from mofang.catalog.rows import Row
from mofang.errors import UnitError
from mofang.units import parse_count

__all__ = ["Column", "Schema", "count", "flag", "name", "names", "number", "text"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``parse`` raises ``ValueError`` with what was expected; a default of ``...`` means required."""

    name: str
    parse: Callable[[str], Any]
    default: Any = None


class Schema:
    """The columns of one table."""

    def __init__(self, *columns: Column) -> None:
        self.columns: Mapping[str, Column] = {column.name: column for column in columns}

    def read(self, row: Row) -> dict[str, Any]:
        """Return the value of every column.

        Raises:
            CatalogError: a column is unknown, missing or cannot be read; it says file, line, column and why.
        """
        for column in row.lines:
            if column not in self.columns:
                raise row.error(column, "there is no such column", self._hint(column))
        return {column.name: _value(row, column) for column in self.columns.values()}

    def _hint(self, column: str) -> str:
        near = nearest(column, self.columns)
        return f"did you mean {near[0]!r}?" if near else f"columns are {', '.join(self.columns)}"


def _value(row: Row, column: Column) -> Any:
    written = row.cells.get(column.name)
    if written is None:
        if column.default is ...:
            raise row.error(column.name, "is required, and empty or missing")
        return column.default
    try:
        return column.parse(written)
    except ValueError as error:
        shown = written if len(written) <= 40 else f"{written[:37]}..."
        raise row.error(column.name, f"{shown!r} is not {error}") from error


def text(written: str) -> str:
    """Return printable text."""
    if not written.isprintable():
        raise ValueError("printable text")
    return written


def name(written: str) -> str:
    """Return a name: printable, with a letter or digit, without ``:`` and ``;``, which requests and lists use."""
    if not written.isprintable() or not key(written) or set(written) & set(":;") or len(written) > 120:
        raise ValueError("a name (a letter or digit, no ':' and no ';', at most 120 characters)")
    return written


def names(written: str) -> tuple[str, ...]:
    """Return the names that ``;`` separates."""
    return tuple(name(part.strip()) for part in written.split(";") if part.strip())


def number(written: str) -> float:
    """Return a finite number that is not negative."""
    try:
        value = float(written)
    except ValueError:
        value = -1.0
    if not math.isfinite(value) or value < 0:
        raise ValueError("a number (finite and not negative)")
    return value


def count(written: str) -> int:
    """Return a whole number; ``32k`` and ``7B`` are understood."""
    if written.isascii() and written.isdigit() and len(written) < 19:
        return int(written)
    try:
        return parse_count(written)
    except (UnitError, ValueError, OverflowError) as error:
        raise ValueError("a whole number") from error


def flag(written: str) -> bool:
    """Return whether the answer is yes."""
    answer = {"yes": True, "true": True, "no": False, "false": False}.get(written.casefold())
    if answer is None:
        raise ValueError("yes or no")
    return answer
