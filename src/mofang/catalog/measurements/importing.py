"""A user's own measurements: checked, and kept in the catalogue folder, each row once."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.catalog.measurements.cells import BrokenRowError, Cells
from mofang.catalog.measurements.load import READERS, columns, required_task
from mofang.catalog.measurements.loaded import Problem
from mofang.catalog.measurements.names import Names
from mofang.catalog.measurements.records import Records, read_records
from mofang.catalog.measurements.setups import completed
from mofang.errors import CatalogError

if TYPE_CHECKING:
    from mofang.catalog.knowledge import Catalog

__all__ = ["Imported", "import_measurements"]

Cell = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What came of a file: rows that are new, rows that were there already, and those that name no known chip."""

    task: str
    kept_in: Path
    new: int
    known: int
    unmatched: int
    problems: tuple[Problem, ...]


def import_measurements(file: Path, user_dir: Path, catalog: Catalog) -> Imported:
    """Add the good rows of a file to the user's measurements; the same file again adds nothing.

    Args:
        file: CSV in the schema of training or of serving measurements; its header tells which.
        user_dir: the catalogue folder, which need not exist.
        catalog: where chips and models are looked up.

    Raises:
        CatalogError: the file cannot be read, holds neither, or the folder cannot be written.
    """
    records = read_records(file)
    task = required_task(records)
    good, unmatched, problems = _checked(task, records, Names(catalog))
    target = user_dir / "measurements" / f"{task}.csv"
    kept = [dict(record.cells) for record in read_records(target).records] if target.exists() else []
    seen = {_identity(row) for row in kept}
    new = {_identity(row): row for row in good if _identity(row) not in seen}
    if new:
        _write(target, columns(task), [*kept, *new.values()])
    return Imported(
        task=task, kept_in=target, new=len(new), known=len(good) - len(new), unmatched=unmatched, problems=problems
    )


def _checked(task: str, records: Records, names: Names) -> tuple[list[Cell], int, tuple[Problem, ...]]:
    good: list[Cell] = []
    problems: list[Problem] = []
    unmatched = 0
    wanted = set(columns(task))
    for record in records.records:
        try:
            row = READERS[task](Cells(completed(record)), names)
        except BrokenRowError as error:
            problems.append(Problem(line=record.line, message=str(error), file=str(records.file)))
            continue
        unmatched += not row.accelerator
        good.append({column: cell for column, cell in record.cells.items() if column in wanted})
    return good, unmatched, tuple(problems)


def _identity(row: Cell) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(row.items()))


def _write(target: Path, header: Sequence[str], rows: Sequence[Cell]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([row.get(column, "") for column in header] for row in rows)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text.getvalue(), encoding="utf-8")
        fresh.replace(target)
    except OSError as error:
        raise CatalogError(f"{target}: cannot be written: {error.strerror or error}", hint="set MOFANG_HOME") from error
