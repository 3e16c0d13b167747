"""Traces from jobs that ran: their telemetry, cut where a generation of workers began and where it ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mofang.domain.events import Event, EventKind
from mofang.domain.reasons import Reason
from mofang.errors import DataError
from mofang.recovery.prediction.short_lead.traces import NO_FAULT, Trace
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.spool import read_spool
from mofang.recovery.telemetry.series import Series, read_series

__all__ = ["attempts_below", "recorded_traces"]

_NO_MACHINES_FAULT = {
    Reason.COMPLETED,
    Reason.STOPPED_BY_USER,
    Reason.COMMAND_NOT_FOUND,
    Reason.LAUNCH,
    Reason.BAD_DATA,
    Reason.RESIZED,
    Reason.WORKER_FAILED,  # the program's own error
}


def attempts_below(folder: Path) -> list[Path]:
    """Return the attempts with telemetry in a folder: a run directory, or one that holds several, or an attempt."""
    found = {path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}telemetry-*.csv")}
    return sorted(found)


def recorded_traces(attempts: Iterable[Path]) -> list[Trace]:
    """Return a trace for each node and generation of some attempts.

    A fault is one of the machine: a program that fails by itself, or is stopped, ends a trace without one. It counts
    for the node whose worker ended first.

    Raises:
        DataError: a time series is broken.
    """
    return [trace for number, path in enumerate(attempts) for trace in _of_attempt(AttemptDir(path), number)]


def _of_attempt(directory: AttemptDir, number: int) -> Iterator[Trace]:
    files = sorted(directory.path.glob("telemetry-*.csv"))
    nodes = [int(path.stem.rpartition("-")[2]) for path in files]
    events = {node: _events(directory.agent_spool(node)) for node in (*nodes, 0)}
    begins, ends = _times(events[0])
    struck = _struck(events)
    for node, path in zip(nodes, files, strict=True):
        series = read_series(path)
        for generation, begin in begins.items():
            end, reason = ends.get(generation, (float("inf"), str(Reason.COMPLETED)))
            first, where = struck.get(generation, (end, node))
            failed = reason not in _NO_MACHINES_FAULT and where == node
            part = _between(series, begin, min(first, end))
            if len(part):
                until = min(first, end) if failed else float(part.time[-1])
                fault = reason if failed else NO_FAULT
                yield Trace(series=part, fault=fault, end=until, source="recorded", seed=100 * number + node)


def _between(series: Series, begin: float, end: float) -> Series:
    first, last = (int(np.searchsorted(series.time, one)) for one in (begin, end))
    return series.part(first, last)


def _times(events: list[Event]) -> tuple[dict[int, float], dict[int, tuple[float, str]]]:
    """Return when each generation began, and when and why it ended."""
    begins = {one.generation: one.time for one in events if one.kind is EventKind.GENERATION_STARTED}
    ends = {
        one.generation: (one.time, str(one.data.get("reason", "")))
        for one in events
        if one.kind is EventKind.GENERATION_ENDED
    }
    return begins, ends


def _struck(events: dict[int, list[Event]]) -> dict[int, tuple[float, int]]:
    """Return when and on which node the first worker of each generation ended badly or hung."""
    found: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for node, own in events.items():
        for event in own:
            bad_exit = event.kind is EventKind.WORKER_EXITED and event.data.get("exit_code") != 0
            if bad_exit or event.kind is EventKind.HANG_DETECTED:
                found[event.generation].append((event.time, node))
    return {generation: min(times) for generation, times in found.items()}


def _events(path: Path) -> list[Event]:
    events: list[Event] = []
    offset = 0
    try:
        while (page := read_spool(path, offset)).offset > offset:
            events += page.events
            offset = page.offset
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", hint="name a run directory that you may read"
        ) from error
    return events
