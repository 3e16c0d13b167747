"""Measurements and the model's own predictions of them, as the rows that effects are fitted to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.knowledge import Catalog
from mofang.domain.measurement import ServingMeasurement, TokenCount, publisher
from mofang.domain.model import ModelArchitecture
from mofang.matching.serving.cases import Mode, benchmarks, cases_of, unusable
from mofang.matching.serving.effects import REGIME, Sample
from mofang.matching.serving.points import FEATURES, regimes
from mofang.matching.serving.predict import Physics, predict

__all__ = ["TARGETS", "Measured", "measured", "model_kind", "not_scored"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TARGETS = ("throughput", "tpot", "ttft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Rows with what was measured and what the model says, by target; nan where either is missing."""

    rows: tuple[ServingMeasurement, ...]
    sample: Sample
    measured: dict[str, Floats]
    predicted: dict[str, Floats]
    reasons: tuple[str | None, ...]

    def usable(self, target: str) -> Bools:
        """Return which rows have both figures of a target."""
        both: Bools = np.isfinite(self.measured[target]) & np.isfinite(self.predicted[target])
        return both

    def residuals(self, target: str) -> Floats:
        """Return log(measured / predicted) of times; of throughput its negative, the time of a token."""
        with np.errstate(invalid="ignore"):
            ratio: Floats = np.log(self.measured[target] / self.predicted[target])
        return -ratio if target == "throughput" else ratio

    def labelled(self, target: str) -> Sample:
        """Return the sample with the target among its labels."""
        labels = {**self.sample.labels, "target": np.full(len(self.rows), target)}
        return Sample(labels=labels, features=self.sample.features)


def measured(rows: Sequence[ServingMeasurement], catalog: Catalog) -> Measured:
    """Return the rows with the model's predictions; every row keeps its place."""
    physics = predict(cases_of(rows, catalog), len(rows))
    reasons = tuple(_reason(row, physics, index) for index, row in enumerate(rows))
    return Measured(
        rows=tuple(rows),
        sample=_sample(rows, physics, catalog),
        measured=_figures(rows),
        predicted=_predictions(rows, physics),
        reasons=reasons,
    )


def _reason(row: ServingMeasurement, physics: Physics, index: int) -> str | None:
    why = unusable(row)
    if why is None and not np.isfinite(physics.tpot_s[index]):
        return "how prefill and decode were divided is not stated"
    return why or not_scored(row)


def not_scored(row: ServingMeasurement) -> str | None:
    """Return why a row has no figure to compare with; None where it has one."""
    if row.tokens_per_s is None and row.tpot_s is None and row.ttft_s is None:
        return "neither throughput nor latency is stated"
    if row.token_count is TokenCount.TOTAL and row.tpot_s is None and row.ttft_s is None:
        return "the throughput counts input tokens too"
    return None


def _figures(rows: Sequence[ServingMeasurement]) -> dict[str, Floats]:
    def column(values: list[float | None]) -> Floats:
        return np.array([np.nan if value is None or value <= 0 else value for value in values], dtype=np.float64)

    speeds = [None if row.token_count is TokenCount.TOTAL else row.tokens_per_s for row in rows]
    # One token has no time after it.
    each = [None if row.output_tokens is not None and row.output_tokens < 2 else row.tpot_s for row in rows]
    return {"throughput": column(speeds), "tpot": column(each), "ttft": column([row.ttft_s for row in rows])}


def _predictions(rows: Sequence[ServingMeasurement], physics: Physics) -> dict[str, Floats]:
    median = np.array(["median ITL" in row.notes for row in rows], dtype=np.bool_)
    return {
        "throughput": physics.tokens_per_s,
        "tpot": np.where(median, physics.median_tpot_s, physics.tpot_s),
        "ttft": physics.ttft_s,
    }


def model_kind(model: ModelArchitecture | None) -> str:
    """Return dense, moe or mla (latent attention, with experts or without)."""
    if model is None:
        return ""
    if model.latent is not None:
        return "mla"
    return "dense" if model.moe is None else "moe"


def _sample(rows: Sequence[ServingMeasurement], physics: Physics, catalog: Catalog) -> Sample:
    chips = {chip.name: chip for chip in catalog.accelerators}
    mode = np.nan_to_num(physics.columns["mode"], nan=-1.0).astype(int)
    texts = {
        "framework": [row.framework or row.framework_text.casefold() for row in rows],
        "chip": [row.accelerator for row in rows],
        "vendor": [chips[row.accelerator].vendor if row.accelerator in chips else "" for row in rows],
        "generation": [chips[row.accelerator].architecture if row.accelerator in chips else "" for row in rows],
        "precision": [_precision(row) for row in rows],
        "kind": [model_kind(row.architecture) for row in rows],
        "model": ["" if row.architecture is None else row.architecture.name for row in rows],
        "version": [_version(row.version) for row in rows],
        "publisher": [publisher(row.source_id) for row in rows],
        "source": [row.source_id for row in rows],
        "mode": [str(code) for code in mode],
        REGIME: regimes(physics.columns, mode == Mode.SPLIT),
    }
    return Sample(
        labels={name: np.array(values, dtype=np.str_) for name, values in texts.items()},
        features={name: np.nan_to_num(physics.columns[name]) for name in FEATURES},
    )


def _precision(row: ServingMeasurement) -> str:
    stated = benchmarks()["precisions"].get(row.source_id)
    return str(stated or (row.precision.value if row.precision is not None else "bf16"))


def _version(text: str) -> str:
    """Return the family of a version: its first two numbers."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return f"{found.group(1)}.{found.group(2)}" if found else ""
