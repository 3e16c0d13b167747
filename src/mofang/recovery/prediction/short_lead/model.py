"""The short-lead model: the chance that a node's telemetry ends in a fault within the next minute.

It is learned from traces in which faults are far more frequent than in real life, so its odds are those of the traces.
Where it serves, they are shifted to the rate of faults that is expected there: odds x (h / (1 - h)) / (b / (1 - b)),
for a base rate b in the traces and h at the site (Elkan, "The foundations of cost-sensitive learning", IJCAI 2001,
theorem 2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mofang.errors import DataError
from mofang.recovery.prediction.logistic import RiskModel, fit_risk
from mofang.recovery.prediction.short_lead.features import FEATURES, Signs

__all__ = [
    "HORIZON_S",
    "ShortLeadModel",
    "chosen_short_lead",
    "fit_short_lead",
    "load_short_lead",
    "packaged_short_lead",
    "short_lead_text",
]

HORIZON_S = 60.0
SYNTHETIC = "synthetic: learned from injected and simulated faults, not from field data"
_TOGETHER = ("the strangest sign", "how many signs are strange")
_USUAL = 99.5  # percentile of a feature where no fault follows: what is above it is strange
_LEAST_USUAL = 0.1
_PENALTY = 30.0  # of the squared weights

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortLeadModel:
    """A risk model of signs, and what is needed to use and to judge it.

    Attributes:
        risk: of the features, and of two that take all of them together, so that trouble of an unknown kind counts.
        usual: what each feature hardly ever exceeds without a fault.
        base_rate: part of the rows to learn from that a fault followed.
        horizon_s: a fault within so many seconds is predicted.
        provenance: what it was learned from, in words.
        score: how good it was on traces held apart.
    """

    risk: RiskModel
    usual: tuple[float, ...]
    base_rate: float
    horizon_s: float = HORIZON_S
    provenance: str = SYNTHETIC
    score: Mapping[str, Any] = field(default_factory=dict)

    def odds_ratio(self, values: Floats) -> Floats:
        """Return by how much rows of features raise the odds of a fault over those of any moment."""
        risk = self.risk.risk(_together(np.atleast_2d(values), np.array(self.usual)).astype(np.float32))
        return risk / (1.0 - risk) / (self.base_rate / (1.0 - self.base_rate))

    def probability(self, values: Floats, hazard_per_s: float) -> Floats:
        """Return the probability of a fault within the horizon, for a node that fails at a rate.

        Args:
            values: rows of features.
            hazard_per_s: faults a second that this node is expected to have.
        """
        before = -np.expm1(-hazard_per_s * self.horizon_s)
        odds = self.odds_ratio(values) * before / (1.0 - before)
        found: Floats = odds / (1.0 + odds)
        return found

    def cause(self, signs: Signs) -> str:
        """Return in words which sign weighs most, and the column that it comes from."""
        without = np.repeat(signs.values[None, :], len(FEATURES), axis=0)
        np.fill_diagonal(without, 0.0)
        place = int(np.argmin(self.odds_ratio(without)))
        column = signs.columns[place]
        return f"{list(FEATURES)[place]} ({column})" if column else "nothing in particular"


def _together(values: Floats, usual: Floats) -> Floats:
    parts = values / usual
    return np.column_stack([values, np.log1p(parts.max(axis=1)), np.minimum((parts > 1.0).sum(axis=1), 4.0)])


def fit_short_lead(values: Floats, failing: NDArray[np.bool_]) -> ShortLeadModel:
    """Fit to rows of features and whether a fault followed within the horizon.

    Raises:
        DataError: no row, or every row, was followed by a fault.
    """
    if not failing.any() or failing.all():
        raise DataError("the traces have no fault to learn from, or nothing else", hint="give traces of both kinds")
    usual = np.maximum(np.percentile(values[~failing], _USUAL, axis=0), _LEAST_USUAL)
    features = _together(values, usual).astype(np.float32)
    names = (*FEATURES, *_TOGETHER)
    risk = fit_risk(names, features, failing, penalty=_PENALTY)
    return ShortLeadModel(risk=risk, usual=tuple(map(float, usual)), base_rate=float(failing.mean()))


def short_lead_text(model: ShortLeadModel) -> str:
    """Return a model as the text of its file; numbers to seven figures."""
    return json.dumps(_rounded(asdict(model)), indent=1) + "\n"


def _rounded(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _rounded(one) for name, one in data.items()}
    if isinstance(data, list | tuple):
        return [_rounded(one) for one in data]
    return float(f"{data:.7g}") if isinstance(data, float) else data


def load_short_lead(text: str, name: str) -> ShortLeadModel:
    """Return the model that a file's text holds.

    Raises:
        DataError: it is no short-lead model, or one of other features.
    """
    try:
        row = json.loads(text)
        nested = {
            key: tuple(tuple(map(float, one)) for one in row["risk"][key]) for key in ("knots", "scales", "weights")
        }
        risk = RiskModel(names=tuple(row["risk"]["names"]), intercept=float(row["risk"]["intercept"]), **nested)
        model = ShortLeadModel(**{**row, "risk": risk, "usual": tuple(map(float, row["usual"]))})
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{name} is no short-lead model: {error}", hint="make it with `mofang recovery train`"
        ) from error
    if risk.names != (*FEATURES, *_TOGETHER) or len(model.usual) != len(FEATURES):
        raise DataError(f"{name} is of another version of Mofang", hint="make it anew with `mofang recovery train`")
    return model


@cache
def packaged_short_lead() -> ShortLeadModel:
    """Return the packaged model; read once."""
    file = resources.files("mofang.recovery.prediction").joinpath("data/short_lead.json")
    return load_short_lead(file.read_text(encoding="utf-8"), "the packaged model")


def chosen_short_lead(folder: Path | None) -> ShortLeadModel:
    """Return the user's own model from a folder, where there is one, else the packaged one.

    Raises:
        DataError: the user's file is broken.
    """
    own = None if folder is None else folder / "short_lead.json"
    if own is None or not own.is_file():
        return packaged_short_lead()
    return load_short_lead(own.read_text(encoding="utf-8"), str(own))
