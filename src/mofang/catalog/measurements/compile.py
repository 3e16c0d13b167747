"""Compile published measurements into the packaged knowledge base.

    python -m mofang.catalog.measurements.compile SOURCE_FOLDER [OUT_FOLDER]

Reads every measurement file of the folder, keeps the rows that load, the columns that are used and each row's source,
and writes ``training.csv.gz`` and ``serving.csv.gz``. The same input gives the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements.cells import BrokenRowError, Cells
from mofang.catalog.measurements.load import PACKAGED, READERS, columns, task_of
from mofang.catalog.measurements.names import Names
from mofang.catalog.measurements.records import measurement_files, read_records
from mofang.catalog.measurements.setups import completed

__all__ = ["compile_folder", "main"]

_UNUSED = {"active_params_b", "interconnect_intra"}  # the architecture and the chip's own row say both


def compile_folder(source: Path, out: Path) -> Mapping[str, tuple[int, int]]:
    """Write the packaged files; return how many rows were kept and dropped by task.

    Raises:
        CatalogError: a file cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = Names(Catalog.load())
    counts = {}
    for task, packaged in PACKAGED.items():
        rows = list(_rows(task, source, names))
        kept = [row for row in rows if row is not None]
        _write(out / packaged.name, [name for name in columns(task) if name not in _UNUSED], kept)
        counts[task] = len(kept), len(rows) - len(kept)
    return counts


def _rows(task: str, source: Path, names: Names) -> Iterator[Mapping[str, str] | None]:
    """Yield the cells of each good row, and None for each that is left out."""
    for file in measurement_files(source):
        records = read_records(file)
        if task_of(records.header) != task:
            continue
        for record in records.records:
            try:
                READERS[task](Cells(completed(record)), names)
            except BrokenRowError:
                yield None
            else:
                yield record.cells


def _write(file: Path, header: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([row.get(column, "") for column in header] for row in rows)
    with file.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as packed:
        packed.write(text.getvalue().encode())


def main(argv: Sequence[str]) -> int:
    """Compile, and print what was kept."""
    if not 1 <= len(argv) <= 2:
        sys.stdout.write(f"{__doc__}\n")
        return 2
    out = Path(argv[1]) if len(argv) > 1 else PACKAGED["training"].parent
    for task, (kept, dropped) in compile_folder(Path(argv[0]), out).items():
        sys.stdout.write(f"{task}: {kept} rows kept, {dropped} left out, in {out / PACKAGED[task].name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
