"""Models of a user's own: fitted to earlier logs, scored on later ones, kept where they beat the trivial rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mofang.errors import DataError
from mofang.recovery.prediction.history import FaultHistory
from mofang.recovery.prediction.packaged import PackagedRisk, load_risks, packaged_risks, risks_text
from mofang.recovery.prediction.samples import sampled
from mofang.recovery.prediction.scores import auprc, auroc, calibration_error, gain_interval
from mofang.recovery.prediction.short_lead.evaluation import Rows, fit_rows, rows_of
from mofang.recovery.prediction.short_lead.model import ShortLeadModel, short_lead_text
from mofang.recovery.prediction.short_lead.traces import Trace
from mofang.recovery.prediction.validation import FaultScore, packaged_from, validate_faults

__all__ = [
    "NODE_RISK",
    "SHORT_LEAD",
    "Ranked",
    "chosen_risks",
    "keep_risks",
    "keep_short_lead",
    "rank_units",
    "score_risk",
    "train_short_lead",
]

NODE_RISK, SHORT_LEAD = "node_risk.json", "short_lead.json"  # in $MOFANG_HOME/catalog
FEWEST_FAULTS = 20
_EARLIER = 0.65  # of the faults: what is fitted; the rest is scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A unit and its risk."""

    unit: str
    probability: float
    horizon_days: float


def score_risk(history: FaultHistory) -> FaultScore:
    """Return how well the later part of a log is predicted from the earlier one."""
    (score,) = validate_faults([history], [])
    return score


def chosen_risks(folder: Path | None) -> dict[str, PackagedRisk]:
    """Return the risk models by the name of their set: a user's own before the packaged ones.

    Raises:
        DataError: the user's file is broken.
    """
    own = None if folder is None else folder / NODE_RISK
    if own is None or not own.is_file():
        return dict(packaged_risks())
    return {**packaged_risks(), **load_risks(own.read_text(encoding="utf-8"), str(own))}


def keep_risks(folder: Path, histories: Sequence[FaultHistory]) -> Path:
    """Fit to whole logs and write the models among the user's own; return the file."""
    path = folder / NODE_RISK
    known = load_risks(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(risks_text({**known, **{one.name: packaged_from(one) for one in histories}}), encoding="utf-8")
    return path


def rank_units(history: FaultHistory, risk: PackagedRisk) -> list[Ranked]:
    """Return the units in service on the last day of a log, the riskiest first.

    Raises:
        DataError: the model knows other features than the log has.
    """
    beyond = history.lead_days + history.horizon_days + history.step_days / 2.0
    last = sampled(replace(history, end=history.end + beyond), after=history.end)
    if last.names != risk.model.names:
        raise DataError(
            f"the model of {history.name} was fitted to a log of another kind", hint="train one on this log"
        )
    found = risk.model.risk(last.features)
    return [
        Ranked(unit=history.units[last.unit[row]], probability=float(found[row]), horizon_days=history.horizon_days)
        for row in np.argsort(-found)
    ]


def train_short_lead(traces: Sequence[Trace]) -> tuple[ShortLeadModel, dict[str, Any]]:
    """Return a model of recorded traces, and the score of one that was fitted to the earlier of them only.

    Raises:
        DataError: they hold too few faults.
    """
    faults = sum(trace.failed for trace in traces)
    if faults < FEWEST_FAULTS:
        raise DataError(
            f"the telemetry of these runs ends in {faults} faults of a machine; a model needs {FEWEST_FAULTS}",
            hint="the packaged model, which is synthetic, stays in use; come back with more runs",
        )
    rows = [found for found in map(rows_of, traces) if len(found.time)]
    ends = sorted(one.trace.end for one in rows if one.trace.failed)
    if len(ends) < 2:
        raise DataError("the runs fail within their first minute", hint="nothing can be seen coming so early")
    cut = ends[min(int(_EARLIER * len(ends)), len(ends) - 1)]
    earlier, later = ([one for one in rows if (one.trace.end < cut) == early] for early in (True, False))
    score = _score(fit_rows(earlier), later)
    provenance = f"recorded: {len(ends)} faults in {len(rows)} traces of one's own runs"
    return replace(fit_rows(rows), provenance=provenance, score=score), score


def keep_short_lead(folder: Path, model: ShortLeadModel) -> Path:
    """Write a short-lead model among the user's own; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SHORT_LEAD
    path.write_text(short_lead_text(model), encoding="utf-8")
    return path


def _score(model: ShortLeadModel, rows: Sequence[Rows]) -> dict[str, Any]:
    failing = np.concatenate([one.failing for one in rows])
    values = np.concatenate([one.values for one in rows])
    odds = model.odds_ratio(values) * model.base_rate / (1.0 - model.base_rate)
    risk, strangest = odds / (1.0 + odds), values.max(axis=1)
    group: NDArray[np.int64] = np.repeat(np.arange(len(rows)), [len(one.time) for one in rows])
    low, high = gain_interval(failing, risk, strangest, group)
    return {
        "name": "short lead",
        "task": f"fault of a node within {model.horizon_s:.0f} s",
        "n": len(failing),
        "base_rate": float(failing.mean()),
        "auprc": auprc(failing, risk),
        "trivial_auprc": auprc(failing, strangest),
        "trivial_rule": "the strangest sign",
        "gain_95": [low, high],
        "auroc": auroc(failing, risk),
        "ece": calibration_error(failing, risk),
        "pays": low > 0.0,
    }
