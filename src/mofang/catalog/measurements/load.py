"""Measurements from files: the packaged ones, the user's own, or any of the same schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mofang.catalog.measurements.cells import BrokenRowError, Cells
from mofang.catalog.measurements.loaded import Loaded, Problem
from mofang.catalog.measurements.names import Names
from mofang.catalog.measurements.records import Records, measurement_files, read_records
from mofang.catalog.measurements.serving import serving_row
from mofang.catalog.measurements.setups import completed
from mofang.catalog.measurements.training import training_row
from mofang.catalog.table import DATA
from mofang.errors import CatalogError

if TYPE_CHECKING:
    from mofang.catalog.knowledge import Catalog
    from mofang.domain.measurement import ServingMeasurement, TrainingMeasurement

__all__ = ["PACKAGED", "READERS", "columns", "load_serving", "load_training", "required_task", "task_of"]

T = TypeVar("T")

PACKAGED = {task: DATA / "measurements" / f"{task}.csv.gz" for task in ("training", "serving")}
READERS: Mapping[str, Callable[[Cells, Names], Any]] = {"training": training_row, "serving": serving_row}
_NEEDED = {
    "training": {"source_id", "model", "accelerator", "tokens_per_s_per_gpu"},
    "serving": {"source_id", "model", "accelerator", "ttft_ms"},
}


def load_training(
    paths: Iterable[Path] | Path | None, catalog: Catalog, *, user_dir: Path | None = None
) -> Loaded[TrainingMeasurement]:
    """Return training measurements.

    Args:
        paths: files, or folders of files; None: the packaged ones; (): only those of ``user_dir``.
        catalog: where chips and models are looked up.
        user_dir: the user's catalogue folder, whose ``measurements/`` follow; None: none.

    Raises:
        CatalogError: a file cannot be read, or holds no training measurements. Broken rows are problems, not errors.
    """
    return _load("training", paths, catalog, user_dir, training_row)


def load_serving(
    paths: Iterable[Path] | Path | None, catalog: Catalog, *, user_dir: Path | None = None
) -> Loaded[ServingMeasurement]:
    """Return serving measurements; arguments and errors as those of ``load_training``."""
    return _load("serving", paths, catalog, user_dir, serving_row)


def _load(
    task: str,
    paths: Iterable[Path] | Path | None,
    catalog: Catalog,
    user_dir: Path | None,
    read: Callable[[Cells, Names], T],
) -> Loaded[T]:
    names = Names(catalog)
    rows: list[T] = []
    problems: list[Problem] = []
    for file in (*_chosen(task, paths), *_users(task, user_dir)):
        for found in _read(_checked(task, read_records(file)), names, read):
            if isinstance(found, Problem):
                problems.append(found)
            else:
                rows.append(found)
    return Loaded(rows=tuple(rows), problems=tuple(problems))


def _read(records: Records, names: Names, read: Callable[[Cells, Names], T]) -> Iterator[T | Problem]:
    for record in records.records:
        try:
            yield read(Cells(completed(record)), names)
        except BrokenRowError as error:
            yield Problem(line=record.line, message=str(error), file=str(records.file))


def _chosen(task: str, paths: Iterable[Path] | Path | None) -> list[Path]:
    if paths is None:
        return [PACKAGED[task]]
    given = [paths] if isinstance(paths, Path | str) else paths
    return [file for path in given for file in _of_task(task, Path(path))]


def _of_task(task: str, path: Path) -> list[Path]:
    """Return the file, or the files of a folder that hold this task's measurements."""
    files = measurement_files(path)
    if not path.is_dir():
        return list(files)
    found = [file for file in files if task_of(read_records(file).header) == task]
    if not found:
        raise CatalogError(
            f"{path}: no file here holds {task} measurements", hint="`mofang catalog import` says what is missing"
        )
    return found


def _users(task: str, user_dir: Path | None) -> list[Path]:
    """Return the user's files of this task: those that were imported, and any he put there himself."""
    folder = None if user_dir is None else user_dir / "measurements"
    if folder is None or not folder.is_dir() or not any(folder.glob("[!.]*.csv*")):
        return []
    return [file for file in measurement_files(folder) if task_of(read_records(file).header) == task]


@cache
def columns(task: str) -> tuple[str, ...]:
    """Return the columns of training or of serving measurements, as ``data/measurements/columns.csv`` explains them."""
    rows = read_records(DATA / "measurements" / "columns.csv").records
    return tuple(row.cells["column"] for row in rows if row.cells["task"] == task)


def task_of(header: Iterable[str]) -> str | None:
    """Return which measurements a header belongs to, training or serving; None: neither."""
    columns = set(header)
    return next((task for task, needed in _NEEDED.items() if needed <= columns), None)


def required_task(records: Records) -> str:
    """Return which measurements a file holds.

    Raises:
        CatalogError: neither training nor serving ones.
    """
    found = task_of(records.header)
    if found is None:
        needed = "; ".join(f"{task}: {', '.join(sorted(names))}" for task, names in _NEEDED.items())
        hint = f"the first line names the columns; at least these are needed for {needed}"
        raise CatalogError(f"{records.file}: neither training nor serving measurements", hint=hint)
    return found


def _checked(task: str, records: Records) -> Records:
    found = required_task(records)
    if found != task:
        raise CatalogError(f"{records.file}: these are {found} measurements, not {task} ones")
    return records
