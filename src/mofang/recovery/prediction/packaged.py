"""The risk models that come with the package: plain numbers, written by ``mofang.recovery.prediction.train``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

from mofang.errors import DataError
from mofang.recovery.prediction.logistic import RiskModel

__all__ = ["PackagedRisk", "load_risks", "packaged_risks", "risks_text"]


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
    return load_risks(file.read_text(encoding="utf-8"), "the packaged file")


def load_risks(text: str, name: str) -> dict[str, PackagedRisk]:
    """Return the models that a file's text holds.

    Raises:
        DataError: it holds something else.
    """
    try:
        return {
            key: PackagedRisk(model=_model(row["model"]), rule=row["rule"], until=float(row["until"]))
            for key, row in json.loads(text).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name} holds no risk models: {error}", hint="make it with `mofang recovery train`") from error


def risks_text(risks: Mapping[str, PackagedRisk]) -> str:
    """Return the models as the text of their file."""
    return json.dumps({name: asdict(risk) for name, risk in risks.items()}, indent=1, default=float) + "\n"


def _model(row: Mapping[str, Any]) -> RiskModel:
    nested = {name: tuple(tuple(map(float, one)) for one in row[name]) for name in ("knots", "scales", "weights")}
    return RiskModel(names=tuple(row["names"]), intercept=float(row["intercept"]), **nested)
