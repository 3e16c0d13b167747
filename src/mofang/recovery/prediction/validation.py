"""Score node risk on fault logs beside rules that anybody would try first; no model sees what it is scored on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mofang.errors import DataError
from mofang.recovery.prediction.history import FaultHistory, joined
from mofang.recovery.prediction.logistic import RiskModel, fit_risk
from mofang.recovery.prediction.packaged import PackagedRisk, packaged_risks
from mofang.recovery.prediction.samples import RULES, Samples, sampled
from mofang.recovery.prediction.scores import auprc, auroc, calibration_error, gain_interval

__all__ = ["PENALTY", "FaultScore", "train_risk", "validate_faults"]

PENALTY = 1000.0  # of the squared weights; chosen on the earlier part of the public logs
_EARLIER = 0.65  # of the faults, where one log has to serve for both fit and score


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultScore:
    """How well faults of one set were predicted. ``gain_95`` is the interval of AUPRC minus the trivial rule's."""

    name: str
    task: str
    n: int
    failures: int
    base_rate: float
    auprc: float
    trivial_auprc: float
    trivial_rule: str  # the best of the trivial rules on what the model was fitted on
    gain_95: tuple[float, float]
    auroc: float
    ece: float
    fitted_on: str

    @property
    def pays(self) -> bool:
        """Whether the model beats the trivial rule beyond chance."""
        return self.gain_95[0] > 0.0

    def to_data(self) -> dict[str, object]:
        """Return plain data."""
        return {**asdict(self), "gain_95": list(self.gain_95), "pays": self.pays}


def train_risk(samples: Samples) -> RiskModel:
    """Fit the risk model to samples.

    Raises:
        DataError: none of them failed, or all did.
    """
    if not samples.failed.any() or samples.failed.all():
        raise DataError(
            "the logs to learn from are too short: no fault lies in them that had a before", hint="give more"
        )
    return fit_risk(samples.names, samples.features, samples.failed, penalty=PENALTY)


def validate_faults(tested: Sequence[FaultHistory], trained: Sequence[FaultHistory] | None) -> list[FaultScore]:
    """Return a score for every set.

    Args:
        tested: the logs to score on.
        trained: earlier logs of the same sets to fit to; what they tell is known when later ones are predicted. None:
            the packaged model scores what happened after the logs it was fitted to. Of a log that ends before that,
            or that no earlier one goes with, the first 65 % of the faults fit a model, and the rest are scored.

    Raises:
        DataError: the logs to score end before those to train on, or what is known has no fault to learn from.
    """
    earlier = {history.name: history for history in trained or ()}
    packaged = {} if trained is not None else packaged_risks()
    return [_scored(history, *_case(history, earlier.get(history.name), packaged)) for history in tested]


def _case(
    history: FaultHistory, earlier: FaultHistory | None, packaged: Mapping[str, PackagedRisk]
) -> tuple[RiskModel, int, Samples, str]:
    """Return the model, the trivial rule's column, the samples to score, and what the model was fitted to."""
    if earlier is not None:
        if history.end <= earlier.end:
            raise DataError(
                f"the {history.name} logs end on the day on which those to train on end, or before",
                hint="give later logs to score than to train on",
            )
        known = sampled(earlier)
        later = sampled(joined(earlier, history), after=max(earlier.end, history.begin))
        return train_risk(known), _rule(known), later, "the earlier logs"
    ready = packaged.get(history.name)
    if ready is not None and history.end > ready.until + history.horizon_days:
        later = sampled(history, after=max(ready.until, history.begin))
        return ready.model, RULES.index(ready.rule), later, "the packaged logs"
    cut = float(np.quantile(history.event_day, _EARLIER))
    rows = sampled(history)
    known = rows.where(rows.day < cut - history.lead_days - history.horizon_days)
    return train_risk(known), _rule(known), rows.where(rows.day >= cut), "the earlier part of the same log"


def _rule(samples: Samples) -> int:
    """Return the trivial rule that ranks best on what is known."""
    return int(np.argmax([auprc(samples.failed, samples.rules[:, place]) for place in range(len(RULES))]))


def _scored(history: FaultHistory, model: RiskModel, rule: int, samples: Samples, fitted_on: str) -> FaultScore:
    risk, trivial = model.risk(samples.features), samples.rules[:, rule]
    # One unit alone is drawn by weeks instead.
    groups = samples.unit if len(history.units) > 1 else (samples.day // 7.0).astype(np.int64)
    return FaultScore(
        name=history.name,
        task=history.task,
        n=len(samples),
        failures=int(samples.failed.sum()),
        base_rate=float(samples.failed.mean()) if len(samples) else float("nan"),
        auprc=auprc(samples.failed, risk),
        trivial_auprc=auprc(samples.failed, trivial),
        trivial_rule=RULES[rule],
        gain_95=gain_interval(samples.failed, risk, trivial, groups),
        auroc=auroc(samples.failed, risk),
        ece=calibration_error(samples.failed, risk),
        fitted_on=fitted_on,
    )


def packaged_from(history: FaultHistory) -> PackagedRisk:
    """Return what is to be packaged for a set: the model fitted to all of its log."""
    samples = sampled(history)
    return PackagedRisk(model=train_risk(samples), rule=RULES[_rule(samples)], until=history.end)
