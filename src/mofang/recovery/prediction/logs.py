"""Read the fault logs of public fleets, told apart by their columns: node outages, device events, fatal messages.

Known: node faults with ``start_day, end_day, node`` (InfiniteHBD, arXiv:2502.03885), outages with ``system, node,
n_nodes`` (LANL, LA-UR-05-7318), device events with ``SN, location`` and the devices' stays (Titan,
doi:10.1109/SC41405.2020.00045), and fatal messages with ``template, is_unique_failure`` (BG/L).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mofang.errors import DataError
from mofang.recovery.prediction.history import FaultHistory, Floats, Ints

__all__ = ["read_fault_logs"]

Columns = Mapping[str, Sequence[Any]]

_SECONDS = 86400.0
_STEPFUN_NODES, _STEPFUN_NODE_DEVICES = 400, 8
_QUIET_DAYS = 60.0  # a system whose last outage is older when the log ends was taken out of service after it
_LOCATION = re.compile(r"c(?P<column>\d+)-(?P<row>\d+)c(?P<cage>\d)s(?P<slot>\d)n(?P<node>\d)")


def read_fault_logs(folder: Path) -> list[FaultHistory]:
    """Return the histories that the files of a folder hold, by name.

    Raises:
        DataError: there is no log of a known format, or one is broken.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder", hint="give a folder of fault logs (CSV or Parquet)")
    tables = {path.stem: _table(path) for path in sorted(folder.iterdir()) if path.suffix in {".csv", ".parquet"}}
    found = []
    for wanted, read in _FORMATS.items():
        parts = [_only(tables, set(columns)) for columns in wanted]
        if all(part is not None for part in parts):
            found.append(read(*parts))
    if not found:
        raise DataError(f"{folder} has no fault log of a known format", hint="known columns: start_day, end_day, node")
    return sorted(found, key=lambda history: history.name)


def _only(tables: Mapping[str, Columns], wanted: set[str]) -> Columns | None:
    return next((table for table in tables.values() if wanted <= set(table)), None)


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
        return (
            np.where(np.isnan(days), np.nan, days / 1e6 / _SECONDS) if days.dtype.kind == "f" else days / 1e6 / _SECONDS
        )
    return column.to_pylist()


def _codes(names: Sequence[str]) -> tuple[list[str], Ints]:
    known = list(dict.fromkeys(names))
    index = {name: place for place, name in enumerate(known)}
    return known, np.array([index[name] for name in names], dtype=np.int64)


def _node_faults(table: Columns) -> FaultHistory:
    """StepFun: 400 nodes, of which those without a fault are not in the file."""
    try:
        day = np.array([float(text) for text in table["start_day"]])
        node = np.array([int(text) for text in table["node"]])
    except ValueError as error:
        raise DataError(
            f"a row of the node faults is broken: {error}", hint="start_day and node are numbers"
        ) from error
    many = max(_STEPFUN_NODES, int(node.max(initial=0)) + 1)
    begin, end = float(np.floor(day.min())), float(day.max())
    return FaultHistory(
        name="stepfun",
        task="fault of a node within 7 days",
        horizon_days=7.0,
        step_days=7.0,
        begin=begin,
        end=end,
        units=[str(index) for index in range(many)],
        neighbourhoods=[str(index) for index in range(many // 8 + 1)],
        stay_unit=np.arange(many),
        stay_neighbourhood=np.arange(many) // 8,  # nodes are numbered along the racks, as far as is known
        stay_begin=np.full(many, begin),
        stay_end=np.full(many, np.inf),
        traits={},
        event_unit=node,
        event_neighbourhood=node // 8,
        event_day=day,
    )


def _outages(table: Columns) -> FaultHistory:
    """LANL: systems of ``n_nodes``; one is in service from its first outage to its last, or to the end of the log."""
    known = [
        place
        for place, (node, many) in enumerate(zip(table["node"], table["n_nodes"], strict=True))
        if node is not None and many
    ]
    system = np.array([int(table["system"][place]) for place in known])
    node = np.array([int(table["node"][place]) for place in known])
    day = np.asarray(table["ts"], dtype=np.float64)[known]
    end = float(day.max())
    units: list[str] = []
    columns: dict[str, list[float]] = {name: [] for name in ("system", "begin", "end", "procs", "memory")}
    size = {
        number: int(max(table["n_nodes"][known[row]] for row in np.flatnonzero(system == number)))
        for number in np.unique(system)
    }
    for number, many in size.items():
        rows = np.flatnonzero(system == number)
        many = max(many, int(node[rows].max()) + 1)
        last = float(day[rows].max())
        units += [f"{number}-{index}" for index in range(many)]
        sample = known[rows[-1]]
        values = (
            number,
            float(day[rows].min()),
            np.inf if end - last < _QUIET_DAYS else last,
            table["procs_per_node"][sample],
            table["mem"][sample],
        )
        for name, value in zip(columns, values, strict=True):
            columns[name] += [float(value or 0.0)] * many
    index = {name: place for place, name in enumerate(units)}
    systems, stay_system = _codes([name.split("-")[0] for name in units])
    where = {name: place for place, name in enumerate(systems)}
    return FaultHistory(
        name="lanl",
        task="outage of a node within 7 days",
        horizon_days=7.0,
        step_days=7.0,
        begin=float(day.min()),
        end=end,
        units=units,
        neighbourhoods=systems,
        stay_unit=np.arange(len(units)),
        stay_neighbourhood=stay_system,
        stay_begin=np.array(columns["begin"]),
        stay_end=np.array(columns["end"]),
        traits={
            "procs": np.log2(np.maximum(np.array(columns["procs"]), 1.0)),
            "memory": np.log2(np.maximum(np.array(columns["memory"]), 1.0)),
            "first_node": np.array([float(name.endswith("-0")) for name in units]),
            "size": np.log2(np.array([float(size[int(name.split("-")[0])]) for name in units])),
        },
        event_unit=np.array([index[f"{a}-{b}"] for a, b in zip(system, node, strict=True)]),
        event_neighbourhood=np.array([where[str(a)] for a in system]),
        event_day=day,
    )


def _device_events(events: Columns, stays: Columns) -> FaultHistory:
    """Titan: devices by serial number, with the places they were in."""
    units, codes = _codes([*stays["SN"], *events["SN"]])
    places, place = _codes([_cabinet(text) for text in (*stays["location"], *events["location"])])
    many = len(stays["SN"])
    day = np.asarray(events["ts"], dtype=np.float64)
    begin, removed = np.asarray(stays["insert"], dtype=np.float64), np.asarray(stays["remove"], dtype=np.float64)
    return FaultHistory(
        name="titan",
        task="double-bit error or lost device within 28 days",
        horizon_days=28.0,
        step_days=28.0,
        begin=float(np.nanmin(begin)),
        end=float(max(day.max(), np.nanmax(removed, initial=0.0))),
        units=units,
        neighbourhoods=places,
        stay_unit=codes[:many],
        stay_neighbourhood=place[:many],
        stay_begin=begin,
        stay_end=np.where(np.isnan(removed), np.inf, removed),
        traits=_position(stays["location"], stays["SN"]),
        event_unit=codes[many:],
        event_neighbourhood=place[many:],
        event_day=day,
    )


def _messages(table: Columns) -> FaultHistory:
    """BG/L: fatal messages of one machine; a failure is told from its repetitions by ``is_unique_failure``."""
    day = np.asarray(table["ts"], dtype=np.float64)
    failures = day[np.array(table["is_unique_failure"], dtype=bool)]
    zero = np.zeros(1, dtype=np.int64)
    return FaultHistory(
        name="bgl",
        task="failure of the machine in 5 to 65 minutes",
        horizon_days=1.0 / 24.0,
        step_days=5.0 / 1440.0,
        lead_days=5.0 / 1440.0,
        begin=float(day.min()),
        end=float(day.max()),
        units=["BG/L"],
        neighbourhoods=["BG/L"],
        stay_unit=zero,
        stay_neighbourhood=zero,
        stay_begin=day[:1],
        stay_end=np.full(1, np.inf),
        traits={},
        event_unit=np.zeros(len(failures), dtype=np.int64),
        event_neighbourhood=np.zeros(len(failures), dtype=np.int64),
        event_day=failures,
    )


def _cabinet(location: str) -> str:
    return location.split("c")[1] if location.count("c") > 1 else location  # c15-2c2s0n1 stands in cabinet 15-2


def _position(locations: Sequence[str], serials: Sequence[str]) -> dict[str, Floats]:
    """Return where devices sit: column, row, cage (the air warms on its way up), slot, node; and their batch."""
    found = [_LOCATION.fullmatch(text) for text in locations]
    names = ("column", "row", "cage", "slot", "node")
    traits = {name: np.array([float(one[name]) if one else -1.0 for one in found]) for name in names}
    return {**traits, "batch": np.array([float(text[:4]) if text[:4].isdigit() else 0.0 for text in serials])}


_FORMATS: dict[tuple[tuple[str, ...], ...], Callable[..., FaultHistory]] = {
    (("start_day", "end_day", "node"),): _node_faults,
    (("ts", "system", "node", "n_nodes"),): _outages,
    (("ts", "template", "is_unique_failure"),): _messages,
    (("ts", "SN", "location", "event"), ("SN", "location", "insert", "remove")): _device_events,
}
