"""A CSV file (or a gzip of one) as records, so that one broken line costs no other line.

A stray quote makes an ordinary reader swallow everything up to the next one. Here a quoted cell may span lines only
where the record then has as many cells as the header; otherwise the line that opened it is broken, and reading goes on
with the line after it.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mofang.errors import CatalogError

__all__ = ["Record", "Records", "measurement_files", "read_records"]

_LARGEST_FILE = 400_000_000  # bytes, unpacked
_LONGEST_RECORD = 50  # lines


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its first line, and the cells that are not empty; ``broken`` says why there are none."""

    line: int
    cells: Mapping[str, str]
    broken: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """A file's header and its records."""

    file: Path
    header: tuple[str, ...]
    records: Iterator[Record]


def measurement_files(path: Path) -> tuple[Path, ...]:
    """Return the file itself, or the CSV files of a folder in the order of their names.

    Raises:
        CatalogError: there is no such file or folder, or no CSV file in it.
    """
    if not path.is_dir():
        return (path,)
    files = tuple(
        sorted(file for file in path.iterdir() if file.name.endswith((".csv", ".csv.gz")) and file.name[0] != ".")
    )
    if not files:
        raise CatalogError(f"{path}: no .csv file in this folder", hint="give a file, or a folder with some")
    return files


def read_records(file: Path) -> Records:
    """Return the header and the records of a ``.csv`` or ``.csv.gz`` file.

    Raises:
        CatalogError: the file cannot be read, is no UTF-8 text, or is empty.
    """
    lines = io.StringIO(_text(file), newline=None).readlines()  # `splitlines` would also cut at form feeds
    start = next((index for index, line in enumerate(lines) if line.strip()), None)
    if start is None:
        raise CatalogError(f"{file}: empty", hint="the first line names the columns")
    header = tuple(cell.strip() for cell in _cells(lines[start]))
    return Records(file=file, header=header, records=_records(lines, start + 1, header))


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
        if file.suffix == ".gz":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(_LARGEST_FILE + 1)
    except (OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or error
        raise CatalogError(f"{file}: cannot be read: {why}") from error
    if len(data) > _LARGEST_FILE:
        raise CatalogError(f"{file}: larger than {_LARGEST_FILE // 10**6} MB", hint="split it into several files")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CatalogError(f"{file}, line {line}: not UTF-8 text", hint="save the file as UTF-8") from error


def _cells(text: str) -> list[str]:
    return next(csv.reader([text]), [])


def _records(lines: Sequence[str], index: int, header: tuple[str, ...]) -> Iterator[Record]:
    while index < len(lines):
        if not lines[index].strip():
            index += 1
            continue
        record, used = _record(lines, index, header)
        yield record
        index += used


def _record(lines: Sequence[str], index: int, header: tuple[str, ...]) -> tuple[Record, int]:
    """Return the record that starts at this line, and how many lines it takes."""
    used, quotes = 1, lines[index].count('"')
    while quotes % 2 and used < _LONGEST_RECORD and index + used < len(lines):
        quotes += lines[index + used].count('"')
        used += 1
    if quotes % 2:
        return Record(index + 1, {}, "a quote is opened and never closed"), 1
    try:
        cells = _cells("".join(lines[index : index + used]))
    except csv.Error as error:
        return Record(index + 1, {}, f"not CSV: {error}"), 1
    if len(cells) != len(header):
        return Record(index + 1, {}, f"{len(cells)} values for {len(header)} columns"), 1
    return Record(
        index + 1, {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
    ), used
