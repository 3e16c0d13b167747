"""What public launch scripts say of benchmarks whose published tables leave it out: cells for rows that lack them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from mofang.catalog.measurements.records import Record, read_records
from mofang.catalog.table import DATA

__all__ = ["completed"]

_FILE = DATA / "measurements" / "setups.csv"
_NO_CELL = {"source_id", "model", "batch_per_device", "setup_source"}


def completed(record: Record) -> Record:
    """Return the record with the cells that its benchmark's launch script states; what a row says itself stays."""
    source, model = record.cells.get("source_id", ""), record.cells.get("model", "")
    setup = next((cells for prefix, cells in _setups().get(model, ()) if source.startswith(prefix)), None)
    if setup is None:
        return record
    added = {column: cell for column, cell in setup.items() if column not in _NO_CELL}
    count, each = record.cells.get("accel_count", ""), setup.get("batch_per_device", "")
    if count.isdigit() and each:
        added["global_batch"] = str(int(count) * int(each))
    return Record(record.line, added | dict(record.cells))


@cache
def _setups() -> Mapping[str, tuple[tuple[str, Mapping[str, str]], ...]]:
    """Return (start of the source's id, cells) by model."""
    found: dict[str, tuple[tuple[str, Mapping[str, str]], ...]] = {}
    for record in read_records(_FILE).records:
        model = record.cells["model"]
        found[model] = (*found.get(model, ()), (record.cells["source_id"], record.cells))
    return found
