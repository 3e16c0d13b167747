"""The packaged fits (``data/curves.json``): coefficients and their quality, never the timings themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from mofang.matching.curves.families import form_of
from mofang.matching.curves.forms import Floats
from mofang.matching.curves.relatives import Kin

__all__ = ["Fit", "Fits", "fits", "fits_from"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One family on one chip. Errors are absolute and relative; ``held_out`` is of shapes that the fit had not seen."""

    parameters: Mapping[str, float]
    points: int
    median_error: float
    p90_error: float
    held_out_median_error: float
    log_sd: float
    sources: tuple[str, ...]

    def vector(self, family: str) -> Floats:
        """Return the parameters in the order of the family's form."""
        return np.array([self.parameters[name] for name in form_of(family).names])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """All fits by family and chip, and what borrowing costs: log standard deviations by kind of family and level."""

    kin: Mapping[str, Kin]
    fits: Mapping[str, Mapping[str, Fit]]
    borrowing: Mapping[str, Mapping[str, float]]


def fits_from(data: Mapping[str, Any]) -> Fits:
    """Return what the fitting script wrote."""
    kin = {name: Kin(name=name, **chip["kin"]) for name, chip in data["chips"].items()}
    families: dict[str, dict[str, Fit]] = {}
    for name, chip in data["chips"].items():
        for family, fit in chip["fits"].items():
            families.setdefault(family, {})[name] = Fit(**{**fit, "sources": tuple(fit["sources"])})
    return Fits(kin=kin, fits=families, borrowing=data["borrowing"])


@cache
def fits() -> Fits:
    """Return the packaged fits; read once."""
    text = resources.files("mofang.matching.curves").joinpath("data/curves.json").read_text(encoding="utf-8")
    return fits_from(json.loads(text))
