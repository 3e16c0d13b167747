"""What borrowing costs: each chip predicted from its relatives only, at each level of nearness, and scored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from mofang.matching.curves.families import form_of
from mofang.matching.curves.forms import Floats
from mofang.matching.curves.readings import Readings
from mofang.matching.curves.relatives import LEVELS, Kin, Relative, relatives

__all__ = ["borrowing_errors"]

_MOST = 1.5  # a log standard deviation that already says "unknown"
_POOLED = 2.0  # how many chips the average over all operators counts for, beside an operator's own


def borrowing_errors(
    tables: Mapping[tuple[str, str], Readings], chips: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Return log standard deviations by kind of family and level: root mean square over chips, each left out in turn.

    Few chips make few errors, and near-twins among them small ones: every figure is drawn to the level's average.
    """
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name, family in tables:
        for level in LEVELS:
            error = _error(tables, chips, name, family, level)
            if error is not None:
                found[kind_of(family), level].append(error**2)
                found["", level].append(error**2)
    average = {level: float(np.mean(found["", level])) for level in LEVELS if found["", level]}
    kinds = sorted({kind_of(family) for _, family in tables})
    return {kind: _levels({level: found[kind, level] for level in LEVELS}, average) for kind in kinds}


def kind_of(family: str) -> str:
    """Return the families that are pooled: collectives by kind of link, others by operator."""
    parts = family.split("/")
    return "/".join(parts[:2]) if parts[0] == "collective" else parts[0]


def _levels(squares: Mapping[str, list[float]], average: Mapping[str, float]) -> dict[str, float]:
    """Return the levels' pooled root mean squares; levels never get more certain with distance."""
    result, last = {}, 0.0
    for level in LEVELS:
        total = sum(squares[level]) + _POOLED * average.get(level, _MOST**2)
        last = min(_MOST, max(last, float(np.sqrt(total / (len(squares[level]) + _POOLED)))))
        result[level] = round(last, 4)
    return result


def _error(
    tables: Mapping[tuple[str, str], Readings],
    chips: Mapping[str, Mapping[str, Any]],
    name: str,
    family: str,
    level: str,
) -> float | None:
    """Return the log error (as a standard deviation) of a chip predicted from relatives of exactly this level."""
    table = tables[name, family]
    others = [Kin.of(other.accelerator) for (_, its), other in tables.items() if its == family]
    at, kin = relatives(Kin.of(table.accelerator), others, nearest=level)
    if at != level or not kin:
        return None
    predicted = _borrowed(table, chips, kin)
    return float(np.quantile(np.abs(predicted - np.log(table.seconds)), 0.9) / 1.645)


def _borrowed(table: Readings, chips: Mapping[str, Mapping[str, Any]], kin: tuple[Relative, ...]) -> Floats:
    form = form_of(table.family)
    total = np.zeros_like(table.seconds)
    for relative in kin:
        values = chips[relative.kin.name]["fits"][table.family]["parameters"]
        parameters = np.array([values[name] for name in form.names])
        total += relative.weight * np.log(form.seconds(parameters, table.limits, table.shapes))
    return total
