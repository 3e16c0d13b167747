"""Rows of a table as they are written in a CSV or YAML file, each cell with the line it stands on.

A YAML file holds one row (a mapping of columns) or a list of rows; both formats share their columns, and every value
is read as text, so that a schema has one way to understand it.
"""

from __future__ import annotations

import csv
import io
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.errors import CatalogError

if TYPE_CHECKING:
    import yaml

__all__ = ["Row", "read_rows"]

_LARGEST_FILE = 8_000_000  # bytes; a table people write is far smaller


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: the text of each column that is not empty, and the line of each."""

    file: Path
    line: int
    cells: Mapping[str, str]
    lines: Mapping[str, int]

    def error(self, column: str, why: str, hint: str = "") -> CatalogError:
        """Return the error that says file, line, column and why."""
        return _error(self.file, self.lines.get(column, self.line), why, column=column, hint=hint)


def _error(file: Path, line: int, why: str, *, column: str = "", hint: str = "") -> CatalogError:
    where = f"{file}, line {line}" + (f", column {column}" if column else "")
    hint = hint or "`mofang catalog show NAME -o yaml` prints a good row to compare with"
    return CatalogError(f"{where}: {why}", hint=hint, data={"file": str(file), "line": line, "column": column})


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a ``.csv``, ``.yaml`` or ``.yml`` file.

    Raises:
        CatalogError: the file cannot be read, or is not a table; it names the file and the line.
    """
    text = _text(file)
    return list(_csv_rows(file, text) if file.suffix == ".csv" else _yaml_rows(file, text))


def _text(file: Path) -> str:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise CatalogError(f"{file}: not a file")
        if file.stat().st_size > _LARGEST_FILE:
            raise _error(file, 1, f"larger than {_LARGEST_FILE // 10**6} MB, which no table of a catalogue is")
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CatalogError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _error(file, line, "not UTF-8 text", hint="save the file as UTF-8") from error


def _csv_rows(file: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    last = 0
    try:
        for values in reader:
            line, last = last + 1, reader.line_num
            if not any(value.strip() for value in values):
                continue
            if header is None:
                header = _header(file, line, values)
                continue
            yield _csv_row(file, line, header, values)
    except csv.Error as error:
        raise _error(file, max(reader.line_num, 1), f"not CSV: {error}") from error
    if header is None:
        raise _error(file, 1, "empty", hint="the first line names the columns")


def _header(file: Path, line: int, values: list[str]) -> list[str]:
    header = [value.strip() for value in values]
    for number, name in enumerate(header, 1):
        if not name:
            raise _error(file, line, f"column {number} has no name")
        if name in header[: number - 1]:
            raise _error(file, line, "named twice", column=name)
    return header


def _csv_row(file: Path, line: int, header: list[str], values: list[str]) -> Row:
    if len(values) > len(header):
        hint = "put quotes around a value that contains a comma"
        raise _error(file, line, f"{len(values)} values for {len(header)} columns", hint=hint)
    cells = {name: " ".join(value.split()) for name, value in zip(header, values, strict=False) if value.strip()}
    return Row(file=file, line=line, cells=cells, lines=dict.fromkeys(header, line))


def _yaml_rows(file: Path, text: str) -> Iterator[Row]:
    import yaml  # noqa: PLC0415 - most catalogues hold no YAML, and loading it takes as long as a table

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or "cannot be parsed"
        raise _error(file, mark.line + 1 if mark else 1, f"not YAML: {why}") from error
    if root is None:
        raise _error(file, 1, "empty", hint="write one row (name: ...) or a list of rows (- name: ...)")
    nodes = root.value if isinstance(root, yaml.SequenceNode) else [root]
    for node in nodes:
        yield _yaml_row(file, node)


def _yaml_row(file: Path, node: yaml.Node) -> Row:
    import yaml  # noqa: PLC0415 - see above

    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise _error(file, line, "not a row", hint="a row maps columns to values: name: my-chip")
    cells: dict[str, str] = {}
    lines: dict[str, int] = {}
    for name, value in node.value:
        column = name.value if isinstance(name, yaml.ScalarNode) else "?"
        if column in lines:
            raise _error(file, name.start_mark.line + 1, "given twice", column=column)
        lines[column] = value.start_mark.line + 1
        text = _yaml_text(file, column, value)
        if text:
            cells[column] = text
    return Row(file=file, line=line, cells=cells, lines=lines)


def _yaml_text(file: Path, column: str, node: yaml.Node) -> str:
    import yaml  # noqa: PLC0415 - see above

    if isinstance(node, yaml.ScalarNode):
        return "" if node.tag == "tag:yaml.org,2002:null" else " ".join(str(node.value).split())
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return "; ".join(_yaml_text(file, column, item) for item in node.value)
    raise _error(file, node.start_mark.line + 1, "a value or a list of values belongs here", column=column)
