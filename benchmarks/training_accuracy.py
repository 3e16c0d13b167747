"""Errors of predicted training speed beside those of a look-up of utilisation, each with what it scores left out.

    MOFANG_REFERENCE_DATA=... python benchmarks/training_accuracy.py [--nested] [--json]

The look-up is what a careful engineer does without a model: the median model FLOP utilisation of published runs alike
in framework, chip, precision and method, or in as many of these as somebody measured, times the peak. ``--nested``
learns the variances of the effects anew without each publisher (minutes), to see what it matters that the packaged
ones were learned with all of them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import load_training
from mofang.domain.hardware import Precision
from mofang.domain.measurement import publisher
from mofang.matching.calibration.comparisons import ScoredRow
from mofang.matching.calibration.learning import learn
from mofang.matching.calibration.observations import observe
from mofang.matching.calibration.process import condition
from mofang.matching.calibration.terms import FLOORS, SHARED, SITE_TERMS, TERMS
from mofang.matching.scores import Score, score
from mofang.matching.validation import LeaveOut, TrainingReport, validate_training

GROUPS: dict[str, Callable[[str], str]] = {"source": str, "publisher": publisher}


def utilisation(row: ScoredRow) -> tuple[float, float]:
    """Return a row's measured utilisation of its chip's peak, and the tokens/s a device at full utilisation."""
    setting = row.setting
    precision = setting.row.precision or Precision.BF16
    peak = setting.pool.accelerator.peak_flops.get(precision, 0.0)
    at_peak = peak / setting.work.model.train_flops_per_token(setting.work.sequence)
    return row.measured / at_peak, at_peak


def look_up(rows: Sequence[ScoredRow], group: Callable[[str], str]) -> list[float]:
    """Return the look-up's tokens/s a device, each from rows of other groups."""
    keys = [
        (row.setting.row.framework, row.setting.pool.accelerator.name, row.setting.row.precision, row.setting.row.task)
        for row in rows
    ]
    known = [utilisation(row) for row in rows]
    groups = [group(row.setting.row.source_id) for row in rows]
    found = []
    for mine, here, (_, at_peak) in zip(keys, groups, known, strict=True):
        others = [index for index, there in enumerate(groups) if there != here]
        wanted = ((0, 1, 2, 3), (0, 1, 2), (1, 2, 3), (1, 2), (1,), (0, 2), (2,), ())
        alike = next(
            chosen
            for places in wanted
            if (chosen := [index for index in others if all(keys[index][at] == mine[at] for at in places)])
        )
        found.append(at_peak * float(np.median([known[index][0] for index in alike])))
    return found


def nested(report: TrainingReport) -> Score:
    """Return the score with variances learned without the publisher that is predicted."""
    rows = [row for row in report.rows if row.setting.speed is not None]
    known = observe([row.setting for row in rows])
    owners = np.array([publisher(row.setting.row.source_id) for row in rows])
    factor = np.zeros(len(rows))
    for owner in np.unique(owners):
        out, kept = np.flatnonzero(owners == owner), np.flatnonzero(owners != owner)
        features, residuals = known.features.where(kept), known.residuals[kept]
        prior = learn(TERMS, features, residuals, floors=FLOORS, shared=SHARED, fixed=SITE_TERMS)
        factor[out] = np.exp(condition(prior, features, residuals).mean(known.features.where(out)))
    predicted = [row.setting.tokens_per_s(row.setting.step_time * by) for row, by in zip(rows, factor, strict=True)]
    return nvidia_score(rows, predicted)


def nvidia_score(rows: Sequence[ScoredRow], predicted: Sequence[float]) -> Score:
    """Return the score of the rows on NVIDIA's chips."""
    pairs = [(guess, row.measured) for guess, row in zip(predicted, rows, strict=True) if row.vendor == "NVIDIA"]
    return score([guess for guess, _ in pairs], [measured for _, measured in pairs])


def main() -> int:
    """Print the comparison; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nested", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = os.environ.get("MOFANG_REFERENCE_DATA")
    if not folder:
        print("skipped: MOFANG_REFERENCE_DATA is not set")
        return 0
    catalog = Catalog.load()
    measured = load_training(Path(folder) / "training_measurements.csv", catalog).rows
    results: dict[str, dict[str, object]] = {}
    for left_out, group in GROUPS.items():
        report = validate_training(measured, catalog, LeaveOut(left_out))
        rows = [row for row in report.rows if row.setting.speed is not None]
        results[f"calibrated physics, {left_out} left out"] = nvidia_score(
            rows, [row.predicted for row in rows]
        ).to_data()
        results[f"look-up of utilisation, {left_out} left out"] = nvidia_score(rows, look_up(rows, group)).to_data()
    results["physics alone"] = nvidia_score(
        rows, [row.setting.tokens_per_s(row.setting.step_time) for row in rows]
    ).to_data()
    if args.nested:
        results["calibrated physics, publisher left out of the variances too"] = nested(report).to_data()
    if args.json:
        print(json.dumps(results, indent=2))
        return 0
    print(f"{'tokens/s a device, rows on NVIDIA chips':60} {'rows':>5} {'median':>8} {'p90':>8} {'bias':>8}")
    for name, one in results.items():
        print(f"{name:60} {one['n']:5} {one['median_ape']:8.1%} {one['p90_ape']:8.1%} {one['bias']:+8.1%}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
