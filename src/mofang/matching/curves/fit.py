"""Fits the curves: ``python -m mofang.matching.curves.fit REFERENCE_DIR [-o OUT]``.

Reads ``op_measurements.csv`` in the folder and writes coefficients with the number of points, the errors and the
sources of every fit. The same file gives the same numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mofang.catalog.knowledge import Catalog
from mofang.errors import MofangError
from mofang.matching.curves.borrowing import borrowing_errors
from mofang.matching.curves.families import form_of
from mofang.matching.curves.forms import Floats
from mofang.matching.curves.readings import Reading, Readings, columns, possible
from mofang.matching.curves.relatives import Kin
from mofang.matching.curves.solve import solve
from mofang.matching.curves.sources import read_operators

__all__ = ["fit_all", "fit_table", "main", "predict"]

_FOLDS = 5
_DIGITS = 5  # significant digits of what is written


def predict(table: Readings, parameters: Floats) -> Floats:
    """Return seconds of every row of the table."""
    return form_of(table.family).seconds(parameters, table.limits, table.shapes)


def _solved(table: Readings) -> Floats:
    form = form_of(table.family)
    start = np.log(np.array(list(form.start.values())))
    width = np.array(list(form.width.values()))
    return np.exp(solve(lambda logs: predict(table, np.exp(logs)), table.seconds, start, width))


def _held_out(table: Readings) -> Floats:
    """Return logarithmic errors of rows predicted by fits that have not seen their group of shapes."""
    order = {group: index for index, group in enumerate(sorted(set(table.groups)))}
    folds = np.array([order[group] % _FOLDS for group in table.groups])
    errors = []
    for fold in range(min(_FOLDS, len(order))):
        left_out = folds == fold
        parameters = _solved(table.where(~left_out)) if not left_out.all() else _solved(table)
        tested = table.where(left_out)
        errors.append(np.log(predict(tested, parameters) / tested.seconds))
    return np.concatenate(errors)


def fit_table(table: Readings) -> dict[str, Any]:
    """Return the fit of one family on one chip, as it is written to the file."""
    parameters = _solved(table)
    errors = np.log(predict(table, parameters) / table.seconds)
    relative, held_out = np.abs(np.expm1(errors)), np.abs(np.expm1(_held_out(table)))
    return {
        "parameters": dict(zip(form_of(table.family).names, _rounded(parameters), strict=True)),
        "points": len(errors),
        "median_error": round(float(np.median(relative)), 4),
        "p90_error": round(float(np.quantile(relative, 0.9)), 4),
        "held_out_median_error": round(float(np.median(held_out)), 4),
        # of a normal distribution with this 90th percentile: what an interval has to cover
        "log_sd": round(float(np.quantile(np.abs(errors), 0.9) / 1.645), 4),
        "sources": list(table.sources),
    }


def _rounded(values: Floats) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]


def fit_all(rows: Sequence[Reading]) -> dict[str, Any]:
    """Return everything that the file says."""
    kept, dropped = possible(rows)
    tables = columns(kept)
    chips: dict[str, dict[str, Any]] = {}
    for (name, family), table in tables.items():
        chip = chips.setdefault(name, {"kin": _kin(table), "fits": {}})
        chip["fits"][family] = fit_table(table)
    counted = Counter(f"{row.accelerator.name}: {row.family}" for row in dropped)
    return {
        "about": "Fitted by python -m mofang.matching.curves.fit from op_measurements.csv; forms and units: the code.",
        "left_out": dict(sorted(counted.items())),
        "borrowing": borrowing_errors(tables, chips),
        "chips": chips,
    }


def _kin(table: Readings) -> Mapping[str, Any]:
    kin = Kin.of(table.accelerator)
    return {
        "vendor": kin.vendor,
        "architecture": kin.architecture,
        "year": kin.year,
        "memory_type": kin.memory_type,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write the file, and say where; return the exit status."""
    packaged = str(resources.files("mofang.matching.curves").joinpath("data/curves.json"))
    parser = argparse.ArgumentParser(prog="python -m mofang.matching.curves.fit", description="Fit operator curves.")
    parser.add_argument("reference", type=Path, help="the folder that holds op_measurements.csv")
    parser.add_argument("-o", "--output", type=Path, default=Path(packaged), help="default: the packaged file")
    options = parser.parse_args(arguments)
    try:
        fitted = fit_all(read_operators(options.reference / "op_measurements.csv", Catalog.load()))
    except MofangError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n")
        return error.exit_code
    options.output.write_text(json.dumps(fitted, indent=1) + "\n", encoding="utf-8")
    points = sum(fit["points"] for chip in fitted["chips"].values() for fit in chip["fits"].values())
    sys.stdout.write(f"{points} timings of {len(fitted['chips'])} chips -> {options.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
