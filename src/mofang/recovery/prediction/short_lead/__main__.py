"""Make traces of faults and fit the packaged short-lead model.

``python -m mofang.recovery.prediction.short_lead inject TRACES [RUNS]`` records real runs with injected faults, about
two minutes for a run of each kind; ``... fit TRACES`` simulates what cannot be injected here, fits to both and writes
``data/short_lead.json`` with how good it is on traces held apart.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from mofang.clock import SystemClock
from mofang.errors import UsageError
from mofang.recovery.policy import Costs
from mofang.recovery.prediction.short_lead.evaluation import Site, evaluate, fit_rows, rows_of
from mofang.recovery.prediction.short_lead.inject import KINDS, inject
from mofang.recovery.prediction.short_lead.model import short_lead_text
from mofang.recovery.prediction.short_lead.simulated import KINDS as KINDS_SIMULATED
from mofang.recovery.prediction.short_lead.simulated import simulate_trace
from mofang.recovery.prediction.short_lead.traces import NO_FAULT, Trace, read_traces, write_traces
from mofang.recovery.simulation.faults import packaged_faults

__all__ = ["main"]

_SIMULATED, _QUIET = 30, 150  # simulated runs of every kind of fault, and half hours without one
_NODES, _NODE_DEVICES = 125, 8
_STALLS_S = (0.5, 0.05, 0.005)  # of a snapshot; what decides from which risk on one pays


def main(words: list[str]) -> int:
    """Do what is asked."""
    match words:
        case ["inject", path, *rest]:
            _inject(Path(path), int(rest[0]) if rest else 8)
        case ["fit", path]:
            _fit(read_traces(Path(path)))
        case _:
            raise UsageError("say `inject TRACES [RUNS]` or `fit TRACES`")
    return 0


def _inject(path: Path, runs: int) -> None:
    """Record so many runs of every kind; what is done so far is always in the file."""
    traces: list[Trace] = []
    for run in range(runs):
        for place, kind in enumerate(KINDS):
            traces.append(inject(kind, 100 * run + place, SystemClock()))
        write_traces(path, traces)


def _fit(injected: list[Trace]) -> None:
    """Fit to injected and simulated traces, and judge where 125 nodes fail as often as in the published trace."""
    simulated = [
        simulate_trace(kind, 100 * run + place)
        for place, kind in enumerate(KINDS_SIMULATED)
        for run in range(_QUIET if kind == NO_FAULT else _SIMULATED)
    ]
    rows = [rows_of(trace) for trace in (*injected, *simulated)]
    hazard = _NODE_DEVICES / packaged_faults().mean_interval_s(1)
    sites = [Site(node_hazard_per_s=hazard, nodes=_NODES, costs=Costs(stall_s=stall)) for stall in _STALLS_S]
    score = evaluate(rows, sites)
    traces = {source: sum(one.trace.source == source for one in rows) for source in ("injected", "simulated")}
    model = replace(fit_rows(rows), score={"traces": traces, **score})
    target = Path(__file__).parents[1] / "data" / "short_lead.json"
    target.write_text(short_lead_text(model), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
