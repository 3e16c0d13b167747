"""How good the serving predictions are on measurements that they were not fitted to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import load_serving
from mofang.domain.measurement import ServingMeasurement
from mofang.matching.scores import Score, score
from mofang.matching.serving.blocks import START, TIME
from mofang.matching.serving.calibration import calibration
from mofang.matching.serving.effects import REGIME, Effects, Sample, Scale, Sums, fitted_scales, gather, scales_of
from mofang.matching.serving.samples import TARGETS, Measured, measured

__all__ = ["ServingReport", "SourceScores", "left_out", "left_out_scales", "sums_of", "validate_serving"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
LeaveOut = Literal["source", "publisher"]

_INTERVAL = 1.6448536269514722  # standard deviations on either side of a 90 % interval


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceScores:
    """The scores of one source's rows."""

    source_id: str
    throughput: Score
    tpot: Score
    ttft: Score

    def to_data(self) -> dict[str, Any]:
        """Return the scores as plain data."""
        return {"source_id": self.source_id, **{target: getattr(self, target).to_data() for target in TARGETS}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingReport:
    """Scores over all rows and by source, and how many rows were not scored, by reason."""

    throughput: Score
    tpot: Score
    ttft: Score
    sources: tuple[SourceScores, ...]
    rows: int
    not_scored: Mapping[str, int]
    trained_on: str

    def to_data(self) -> dict[str, Any]:
        """Return the report as plain data; figures are fractions."""
        return {
            **{target: getattr(self, target).to_data() for target in TARGETS},
            "sources": [source.to_data() for source in self.sources],
            "rows": self.rows,
            "not_scored": dict(self.not_scored),
            "trained_on": self.trained_on,
        }


@dataclass(frozen=True, slots=True)
class _Predictions:
    """By target: the calibrated figure and its 90 % interval, nan where there is none."""

    value: Floats
    low: Floats
    high: Floats


def validate_serving(
    rows: Sequence[ServingMeasurement], leave_out: LeaveOut | None = None, catalog: Catalog | None = None
) -> ServingReport:
    """Return how well serving predictions meet measurements; none was fitted to a row that it is scored on.

    Args:
        rows: what to score.
        leave_out: ``source`` or ``publisher``: the effects are fitted to the packaged rows and these together, without
            each source (publisher) in turn; None: to the packaged rows that are not among these.
        catalog: where chips and packaged rows are looked up; None: the packaged catalogue.
    """
    known = catalog or Catalog.load()
    fixed = load_serving(None, known).rows
    wanted = {_identity(row) for row in rows}
    others = [row for row in fixed if _identity(row) not in wanted]
    if leave_out is None and len(others) == len(fixed):
        found = measured(rows, known)
        return _report(found, len(rows), _packaged(found), "the packaged calibration")
    together = measured([*rows, *others], known)
    scored = np.arange(len(together.rows)) < len(rows)
    if leave_out is None:
        predictions = _apart(together, scored)
        return _report(together, len(rows), predictions, f"{len(others)} packaged rows, none of those scored")
    return left_out(together, len(rows), leave_out)


def left_out(found: Measured, count: int, leave_out: LeaveOut) -> ServingReport:
    """Return the scores of the first ``count`` rows, each predicted without the rows of its source or publisher."""
    predictions = {target: _left_out(found, target, leave_out) for target in TARGETS}
    return _report(found, count, predictions, f"all packaged and scored rows but those of the same {leave_out}")


def _identity(row: ServingMeasurement) -> tuple[object, ...]:
    return (
        row.source_id, row.model, row.accelerator_text, row.num_devices, row.framework_text, row.version, row.tp,
        row.ep, row.dp, row.input_tokens, row.output_tokens, row.concurrency, row.tokens_per_s, row.ttft_s, row.tpot_s,
    )  # fmt: skip


def _packaged(found: Measured) -> dict[str, _Predictions]:
    known = calibration()
    return {
        target: _predictions(found, target, *known.effects(target).predict(found.labelled(target)))
        for target in TARGETS
    }


def _predictions(found: Measured, target: str, mean: Floats, sd: Floats) -> _Predictions:
    faster = target == "throughput"  # what takes longer is less throughput
    value = found.predicted[target] * np.exp(-mean if faster else mean)
    low, high = (sd[:, 1], sd[:, 0]) if faster else (sd[:, 0], sd[:, 1])
    return _Predictions(value, value * np.exp(-_INTERVAL * low), value * np.exp(_INTERVAL * high))


def sums_of(found: Measured, targets: Sequence[str], rows: Bools) -> tuple[Sums, Sample, NDArray[np.int64]]:
    """Return the normal equations of these targets' usable rows, their sample, and which row and target each is of."""
    places = [(index, target) for target in targets for index in np.flatnonzero(found.usable(target) & rows)]
    which = np.array([index for index, _ in places], dtype=np.int64)
    names = np.array([target for _, target in places], dtype=np.str_)
    sample = found.sample.where(which)
    sample = Sample(labels={**sample.labels, "target": names}, features=sample.features)
    wanted = np.concatenate([found.residuals(target)[found.usable(target) & rows] for target in targets])
    return gather(START if "ttft" in targets else TIME, sample, wanted), sample, which


def left_out_scales(sums: Sums, sample: Sample) -> Mapping[str, Scale]:
    """Return the scales of intervals that publishers left out need, by regime."""
    who = sample.labels["publisher"]
    mean, sd = sums.held_out(who)
    return fitted_scales(sums.wanted - mean, sd, sample.labels[REGIME], who)


def _family(target: str) -> tuple[str, ...]:
    return ("ttft",) if target == "ttft" else ("throughput", "tpot")


def _apart(found: Measured, scored: Bools) -> dict[str, _Predictions]:
    """Return predictions of the scored rows from effects fitted to the others."""
    results = {}
    for target in TARGETS:
        train = ~scored & found.usable(target)
        if not train.any():
            effects = Effects(blocks=START if target == "ttft" else TIME, means={}, sds={})
        else:
            sums, sample, _ = sums_of(found, _family(target), ~scored)
            effects = sums.effects(left_out_scales(sums, sample))
        results[target] = _predictions(found, target, *effects.predict(found.labelled(target)))
    return results


def _left_out(found: Measured, target: str, leave_out: LeaveOut) -> _Predictions:
    """Return each row's prediction from a fit without its group; intervals are scaled by what other groups need."""
    sums, sample, which = sums_of(found, _family(target), np.ones(len(found.rows), dtype=np.bool_))
    groups = sample.labels[leave_out]
    mean, sd = sums.held_out(groups)
    regimes, who = sample.labels[REGIME], sample.labels["publisher"]
    scales = np.ones((len(mean), 2))
    for group in np.unique(groups):
        mine = groups == group
        found_scales = fitted_scales((sums.wanted - mean)[~mine], sd[~mine], regimes[~mine], who[~mine])
        scales[mine] = scales_of(found_scales, regimes[mine])
    here = sample.labels["target"] == target
    values, spread = np.full(len(found.rows), np.nan), np.full((len(found.rows), 2), np.nan)
    values[which[here]], spread[which[here]] = mean[here], (sd[:, None] * scales)[here]
    return _predictions(found, target, values, spread)


def _report(found: Measured, count: int, predictions: Mapping[str, _Predictions], trained_on: str) -> ServingReport:
    scored = np.arange(len(found.rows)) < count
    sources = found.sample.labels["source"]
    whole = {target: _score(found, target, predictions[target], scored) for target in TARGETS}
    by_source = tuple(
        SourceScores(
            source_id=str(source),
            **{t: _score(found, t, predictions[t], scored & (sources == source)) for t in TARGETS},
        )
        for source in np.unique(sources[:count])
    )
    missing = Counter(reason for reason in found.reasons[:count] if reason is not None)
    return ServingReport(
        **whole, sources=by_source, rows=count, not_scored=dict(missing.most_common()), trained_on=trained_on
    )


def _score(found: Measured, target: str, predictions: _Predictions, rows: Bools) -> Score:
    here = rows & found.usable(target) & np.isfinite(predictions.value)
    return score(predictions.value[here], found.measured[target][here], predictions.low[here], predictions.high[here])
