"""Read the fault logs of public fleets, told apart by their columns: node outages, device events, fatal messages.

Known: node faults with ``start_day, end_day, node`` (InfiniteHBD, arXiv:2502.03885), outages with ``system, node,
n_nodes`` (LANL, LA-UR-05-7318), device events with ``SN, location`` and the devices' stays (Titan,
doi:10.1109/SC41405.2020.00045), and fatal messages with ``template, is_unique_failure`` (BG/L).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mofang.errors import DataError
from mofang.recovery.prediction.history import FaultHistory, Floats, Ints
from mofang.recovery.prediction.tables import Columns, one_with, read_tables

__all__ = ["read_fault_logs"]

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
    tables = read_tables(folder)
    found = []
    for wanted, read in _FORMATS.items():
        parts = [one_with(tables, columns) for columns in wanted]
        if all(part is not None for part in parts):
            found.append(read(*parts))
    if not found:
        raise DataError(f"{folder} has no fault log of a known format", hint="known columns: start_day, end_day, node")
    return sorted(found, key=lambda history: history.name)


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
    if (node < 0).any():
        raise DataError("a row of the node faults is broken: node is negative", hint="nodes are numbered from 0")
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
    known = [row for row, sizes in enumerate(zip(table["node"], table["n_nodes"], strict=True)) if None not in sizes]
    number, node, size = (
        np.array([int(table[name][row]) for row in known], dtype=np.int64) for name in ("system", "node", "n_nodes")
    )
    day = np.asarray(table["ts"], dtype=np.float64)[known]
    end = float(day.max())
    kinds = {name: [float(table[name][row] or 0.0) for row in known] for name in ("procs_per_node", "mem")}
    systems = []
    for one in np.unique(number):
        rows = np.flatnonzero(number == one)
        system = _System(
            number=int(one),
            nodes=max(int(size[rows].max()), int(node[rows].max()) + 1),
            first=float(day[rows].min()),
            last=float(day[rows].max()),
            processors=kinds["procs_per_node"][rows[-1]],
            memory=kinds["mem"][rows[-1]],
        )
        systems.append(system)
    start = np.cumsum([0, *(one.nodes for one in systems)])
    place = np.searchsorted(np.unique(number), number)

    def each(values: Sequence[float]) -> Floats:
        return np.repeat(np.array(values, dtype=np.float64), [one.nodes for one in systems])

    return FaultHistory(
        name="lanl",
        task="outage of a node within 7 days",
        horizon_days=7.0,
        step_days=7.0,
        begin=float(day.min()),
        end=end,
        units=[f"{one.number}-{index}" for one in systems for index in range(one.nodes)],
        neighbourhoods=[str(one.number) for one in systems],
        stay_unit=np.arange(start[-1]),
        stay_neighbourhood=each(range(len(systems))).astype(np.int64),
        stay_begin=each([one.first for one in systems]),
        stay_end=each([np.inf if end - one.last < _QUIET_DAYS else one.last for one in systems]),
        traits={
            "processors": np.log2(np.maximum(each([one.processors for one in systems]), 1.0)),
            "memory": np.log2(np.maximum(each([one.memory for one in systems]), 1.0)),
            "first node": np.isin(np.arange(start[-1]), start[:-1]).astype(np.float64),  # it runs the services
            "nodes": np.log2(each([one.nodes for one in systems])),
        },
        event_unit=start[place] + node,
        event_neighbourhood=place,
        event_day=day,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _System:
    """One system of LANL's: how many nodes of which kind, and the days of its first and last outage."""

    number: int
    nodes: int
    first: float
    last: float
    processors: float  # of a node
    memory: float  # of a node, GB


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
        end=float(day.max()),  # not the last removal: parts of a log often come with the stays of all of it
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
