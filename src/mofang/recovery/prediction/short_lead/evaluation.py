"""How good a short-lead model is: on traces of other seeds, and on kinds of faults that it never saw."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mofang.recovery.policy import Action, Costs, judge, work_at_risk
from mofang.recovery.prediction.scores import auprc, auroc, calibration_error
from mofang.recovery.prediction.short_lead.features import PAST_S, WARM_S, signs
from mofang.recovery.prediction.short_lead.model import HORIZON_S, ShortLeadModel, fit_short_lead
from mofang.recovery.prediction.short_lead.traces import Trace

__all__ = ["Rows", "Site", "evaluate", "fit_rows", "rows_of"]

EVERY_S = 5.0  # between two predictions
_FOLDS = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The moments of a trace at which a prediction is made."""

    trace: Trace
    time: Floats
    values: Floats  # features, a row each
    failing: NDArray[np.bool_]  # within the horizon

    @property
    def fold(self) -> int:
        """Which part it is held apart in: seeds are hundreds for the runs, so kinds are spread over all parts."""
        return self.trace.seed // 100 % _FOLDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a model is judged: a job of so many devices, with what snapshots cost and how often nodes fail there."""

    node_hazard_per_s: float
    nodes: int
    costs: Costs

    @property
    def hazard_per_s(self) -> float:
        """Faults a second of the job."""
        return self.node_hazard_per_s * self.nodes


_Judged = list[tuple[Rows, Floats]]  # rows, and by how much a model that did not see them raises the odds


def rows_of(trace: Trace) -> Rows:
    """Return the features of a trace at every time of prediction."""
    time = trace.series.time
    ends = np.arange(float(time[0]) + WARM_S, float(time[-1]), EVERY_S) if len(time) else np.zeros(0)
    last = np.searchsorted(time, ends, side="right")
    first = np.searchsorted(time, ends - PAST_S)
    values = [signs(trace.series.part(int(begin), int(end))).values for begin, end in zip(first, last, strict=True)]
    failing = (trace.end - ends <= HORIZON_S) & trace.failed
    width = len(values[0]) if values else 0
    return Rows(trace=trace, time=ends, values=np.array(values).reshape(len(ends), width), failing=failing)


def fit_rows(rows: Sequence[Rows]) -> ShortLeadModel:
    """Fit a model to the rows of several traces.

    Raises:
        DataError: they have no fault, or nothing else.
    """
    return fit_short_lead(np.concatenate([one.values for one in rows]), np.concatenate([one.failing for one in rows]))


def evaluate(rows: Sequence[Rows], sites: Sequence[Site]) -> dict[str, Any]:
    """Return how well risks rank and are calibrated, and what the policy makes of them at each site.

    ``seeds_held_apart``: every trace is judged by a model that saw the same kinds of faults, from other seeds.
    ``kinds_held_apart``: every fault is judged by a model that never saw its kind.
    """
    by_seed = _held_apart(rows)
    kinds = sorted({one.trace.fault for one in rows if one.trace.failed})
    by_kind = {kind: _kind_apart(rows, kind) for kind in kinds}
    return {"seeds_held_apart": _ranking(by_seed), "points": [_point(by_seed, by_kind, site) for site in sites]}


def _point(by_seed: _Judged, by_kind: Mapping[str, _Judged], site: Site) -> dict[str, Any]:
    """Return the operating point at a site."""
    known = {kind: _operating([one for one in by_seed if one[0].trace.fault == kind], site) for kind in by_kind}
    unknown = {kind: _operating(judged, site) for kind, judged in by_kind.items()}
    return {
        "nodes": site.nodes,
        "node_hazard_per_s": site.node_hazard_per_s,
        "stall_s": site.costs.stall_s,
        **_operating(by_seed, site),
        "kinds_held_apart_recall": _mean(one["recall"] for one in unknown.values()),
        "by_kind": {kind: {**known[kind], "recall_if_never_seen": unknown[kind]["recall"]} for kind in by_kind},
    }


def _held_apart(rows: Sequence[Rows]) -> _Judged:
    judged: _Judged = []
    for part in range(_FOLDS):
        model = fit_rows([one for one in rows if one.fold != part])
        judged += [(one, model.odds_ratio(one.values)) for one in rows if one.fold == part and len(one.values)]
    return judged


def _kind_apart(rows: Sequence[Rows], kind: str) -> _Judged:
    """Judge one kind by a model that saw none of it."""
    model = fit_rows([one for one in rows if one.trace.fault != kind])
    return [(one, model.odds_ratio(one.values)) for one in rows if one.trace.fault == kind and len(one.values)]


def _ranking(judged: _Judged) -> dict[str, float]:
    """Return how well rows are ranked, and whether risks are what happens, at the base rate of the traces."""
    failing = np.concatenate([one.failing for one, _ in judged])
    odds = np.concatenate([each for _, each in judged]) * failing.mean() / (1.0 - failing.mean())
    risk = odds / (1.0 + odds)
    strangest = np.concatenate([one.values.max(axis=1) for one, _ in judged])
    return {
        "rows": len(failing),
        "base_rate": float(failing.mean()),
        "auprc": auprc(failing, risk),
        "trivial_auprc": auprc(failing, strangest),
        "auroc": auroc(failing, risk),
        "ece": calibration_error(failing, risk),
    }


def _operating(judged: _Judged, site: Site) -> dict[str, Any]:
    """Return what the policy does on traces: faults seen in time, leads, and snapshots for nothing."""
    seen, leads, first, false, quiet_s, faults, before = 0, [], [], 0, 0.0, 0, 0
    for rows, odds in judged:
        wishes = _wishes(rows, odds, site)
        end, failed = rows.trace.end, rows.trace.failed
        timely = [end - time for time in wishes if failed and site.costs.stall_s <= end - time <= HORIZON_S]
        early = [time for time in wishes if not failed or end - time > HORIZON_S]
        false += len(early)
        quiet_s += float(np.sum(~rows.failing)) * EVERY_S
        faults += failed
        seen += bool(timely)
        before += failed and not timely and bool(early)
        leads += timely[-1:]
        first += timely[:1]
    return {
        "faults": faults,
        "recall": seen / faults if faults else None,
        "seen_only_earlier": before,
        "lead_s": _spread(leads),
        "first_lead_s": _spread(first),
        "quiet_days": quiet_s / 86400.0,
        "false_a_node_day": false / (quiet_s / 86400.0) if quiet_s else None,
    }


def _wishes(rows: Rows, odds: Floats, site: Site) -> list[float]:
    """Return the times at which the policy asks for a snapshot."""
    before = -np.expm1(-site.node_hazard_per_s * HORIZON_S)
    scaled = odds * before / (1.0 - before)
    found: list[float] = []
    for time, risk in zip(rows.time, scaled / (1.0 + scaled), strict=True):
        since = float(time) - found[-1] if found else PAST_S
        at_risk = work_at_risk(site.costs, site.hazard_per_s, 0.0, since)
        if judge(float(risk), site.costs, at_risk).action is not Action.NOTHING:
            found.append(float(time))
    return found


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    low, middle, high = (float(one) for one in np.percentile(values, [10, 50, 90]))
    return {"p10": low, "median": middle, "p90": high}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
