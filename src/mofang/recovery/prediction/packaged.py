"""The risk models that come with the package: plain numbers, written by ``mofang.recovery.prediction.train``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

from mofang.recovery.prediction.logistic import RiskModel

__all__ = ["PackagedRisk", "packaged_risks", "risks_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedRisk:
    """A model of one set, the trivial rule that was best there, and the day until which its log was seen."""

    model: RiskModel
    rule: str
    until: float


@cache
def packaged_risks() -> Mapping[str, PackagedRisk]:
    """Return the packaged models by the name of their set; read once."""
    file = resources.files("mofang.recovery.prediction").joinpath("data/node_risk.json")
    rows = json.loads(file.read_text(encoding="utf-8"))
    return {
        name: PackagedRisk(model=_model(row["model"]), rule=row["rule"], until=row["until"])
        for name, row in rows.items()
    }


def risks_text(risks: Mapping[str, PackagedRisk]) -> str:
    """Return the models as the text of their file."""
    return json.dumps({name: asdict(risk) for name, risk in risks.items()}, indent=1, default=float) + "\n"


def _model(row: Mapping[str, Any]) -> RiskModel:
    nested = {name: tuple(tuple(map(float, one)) for one in row[name]) for name in ("knots", "scales", "weights")}
    return RiskModel(names=tuple(row["names"]), intercept=float(row["intercept"]), **nested)
