"""The packaged fit: the observations as a table, and the variances that were learned from them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mofang.matching.calibration.features import LAYOUT, SIZES, WAYS, Features
from mofang.matching.calibration.observations import Fact, Observations
from mofang.matching.calibration.process import Posterior, Prior, Term

__all__ = ["Fit", "packaged_fit", "write_fit"]

Floats = NDArray[np.float64]

_FOLDER = resources.files("mofang.matching.calibration").joinpath("data")
_OBSERVATIONS, _FIT = "observations.csv", "fit.yaml"
_LABELS = ("framework", "vendor", "generation", "chip", "kind", "model", *WAYS, "site", "source")
_COLUMNS = ("identity", "what", "tokens_per_s_per_device", "residual", "weight", "solved")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What was learned: the posterior, by how much to widen its intervals by vendor, and what the sources are."""

    observations: Observations
    posterior: Posterior
    scales: Mapping[str, float]
    sources: Mapping[str, str]  # id -> where it is from

    @property
    def prior(self) -> Prior:
        """The variances of the effects."""
        return self.posterior.prior


@cache
def packaged_fit() -> Fit:
    """Return the packaged fit; read once."""
    known = yaml.load(_FOLDER.joinpath(_FIT).read_text(encoding="utf-8"), _LOADER)  # noqa: S506 - a safe loader
    rows = list(csv.DictReader(_FOLDER.joinpath(_OBSERVATIONS).read_text(encoding="utf-8").splitlines()))
    observations = Observations(
        facts=tuple(_fact(row) for row in rows), features=_features(rows), residuals=_numbers(rows, "residual")
    )
    prior = Prior(
        variances={_term(one): float(one["variance"]) for one in known["variances"]},
        shared=float(known["shared"]),
        noise=float(known["noise"]),
    )
    posterior = Posterior(
        prior=prior,
        features=observations.features,
        residuals=observations.residuals,
        weight=_numbers(rows, "weight"),
        solved=_numbers(rows, "solved"),
    )
    return Fit(observations=observations, posterior=posterior, scales=known["scales"], sources=known["sources"])


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _numbers(rows: Sequence[Mapping[str, str]], column: str) -> Floats:
    return np.array([float(row[column]) for row in rows])


def _fact(row: Mapping[str, str]) -> Fact:
    return Fact(
        identity=row["identity"],
        what=row["what"],
        source_id=row["source"],
        tokens_per_s_per_device=float(row["tokens_per_s_per_device"]),
    )


def _features(rows: Sequence[Mapping[str, str]]) -> Features:
    return Features(
        labels={name: np.array([row[name] for row in rows]) for name in _LABELS},
        sizes={name: _numbers(rows, f"log2_{name}") for name in (*SIZES, *LAYOUT)},
    )


def _term(row: Mapping[str, Any]) -> Term:
    return Term(labels=tuple(row.get("labels", ())), sizes=tuple(row.get("sizes", ())), reach=float(row["reach"]))


def write_fit(fit: Fit, folder: Path) -> None:
    """Write the fit's two files."""
    with (folder / _OBSERVATIONS).open("w", encoding="utf-8", newline="") as file:
        sizes = [f"log2_{name}" for name in (*SIZES, *LAYOUT)]
        writer = csv.DictWriter(file, [*_COLUMNS, *_LABELS, *sizes], lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(fit, index) for index in range(len(fit.observations)))
    head = "# Written by `python -m mofang.matching.calibration.fit` from the packaged measurements.\n"
    text = yaml.safe_dump(_fitted(fit), sort_keys=False, allow_unicode=True, width=120)
    (folder / _FIT).write_text(head + text, encoding="utf-8")


def _row(fit: Fit, index: int) -> dict[str, str]:
    fact, features, posterior = fit.observations.facts[index], fit.observations.features, fit.posterior
    return {
        "identity": fact.identity,
        "what": fact.what,
        "tokens_per_s_per_device": f"{fact.tokens_per_s_per_device:.6g}",
        "residual": f"{posterior.residuals[index]:.5f}",
        "weight": f"{posterior.weight[index]:.5f}",
        "solved": f"{posterior.solved[index]:.8g}",
        **{name: str(features.labels[name][index]) for name in _LABELS},
        **{f"log2_{name}": f"{features.sizes[name][index]:.5f}" for name in (*SIZES, *LAYOUT)},
    }


def _fitted(fit: Fit) -> dict[str, Any]:
    ordered = sorted(fit.prior.variances.items(), key=lambda item: -item[1])
    return {
        "shared": round(fit.prior.shared, 8),
        "noise": round(fit.prior.noise, 8),
        "scales": {vendor: round(scale, 4) for vendor, scale in fit.scales.items()},
        "variances": [
            {
                **({"labels": list(term.labels)} if term.labels else {}),
                **({"sizes": list(term.sizes)} if term.sizes else {}),
                "reach": term.reach,
                "variance": float(f"{variance:.6g}"),
            }
            for term, variance in ordered
        ],
        "sources": dict(fit.sources),
    }
