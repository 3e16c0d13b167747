"""The packaged calibration of serving predictions: effects that ``matching/serving/fit.py`` fitted to measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from mofang.matching.serving.blocks import START, TIME
from mofang.matching.serving.effects import Effects

__all__ = ["ServingCalibration", "calibration", "effects_data"]

_SEPARATOR = "\t"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCalibration:
    """Effects on the time of iterations and on the time to the first token; ``chips`` are those with measurements."""

    time: Effects
    start: Effects
    chips: Mapping[str, int]  # rows by chip
    rows: int

    def effects(self, target: str) -> Effects:
        """Return the effects of a target: throughput and tpot share theirs."""
        return self.start if target == "ttft" else self.time


@cache
def calibration() -> ServingCalibration:
    """Return the packaged calibration; read once."""
    text = resources.files("mofang.matching.serving").joinpath("data/calibration.json").read_text(encoding="utf-8")
    data: Mapping[str, Any] = json.loads(text)
    return ServingCalibration(
        time=_effects(data["time"], start=False),
        start=_effects(data["start"], start=True),
        chips=data["chips"],
        rows=data["rows"],
    )


def _effects(data: Mapping[str, Any], *, start: bool) -> Effects:
    means, sds = {}, {}
    for text, (mean, sd) in data["effects"].items():
        block, feature, level = text.split(_SEPARATOR)
        means[int(block), feature, level], sds[int(block), feature, level] = mean, sd
    return Effects(
        blocks=START if start else TIME,
        means=means,
        sds=sds,
        scales={name: (low, high) for name, (low, high) in data["scales"].items()},
    )


def effects_data(effects: Effects) -> dict[str, Any]:
    """Return effects as plain data: what ``data/calibration.json`` holds."""
    rows = {
        _SEPARATOR.join((str(block), feature, level)): [round(mean, 5), round(effects.sds[block, feature, level], 5)]
        for (block, feature, level), mean in effects.means.items()
    }
    return {
        "scales": {name: [round(side, 4) for side in sides] for name, sides in effects.scales.items()},
        "effects": rows,
    }
