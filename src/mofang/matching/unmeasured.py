"""What of a plan nobody has measured: ways and degrees that no published run of its framework has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from mofang.domain.strategy import Method, Offload, Recompute, Sharding, Strategy
from mofang.matching.calibration.features import WAYS
from mofang.matching.calibration.stored import packaged_fit

__all__ = ["unmeasured", "untried_deviation"]

_DEGREES = ("tp", "pp", "cp", "ep")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What measurements of a framework have: the largest degrees, and the ways by kind."""

    degrees: dict[str, int]
    ways: dict[str, frozenset[str]]


@cache
def _seen(framework: str) -> _Seen | None:
    """Return what was measured with a framework; None where nothing was."""
    features = packaged_fit().observations.features
    here = features.labels["framework"] == framework
    if not here.any():
        return None
    return _Seen(
        {name: round(2.0 ** float(features.sizes[name][here].max())) for name in _DEGREES},
        {name: frozenset(np.unique(features.labels[name][here]).tolist()) for name in WAYS},
    )


def unmeasured(strategy: Strategy) -> tuple[str, ...]:
    """Return what of a plan no measurement of its framework has: ``offload optimizer``, ``pp 64 (at most 8)``.

    Nothing where the framework was never measured at all: that is said of the whole plan. No published row states that
    state was offloaded, so that is unmeasured everywhere.
    """
    found = [] if strategy.offload is Offload.NONE else [f"offload {strategy.offload.value}"]
    seen = _seen(strategy.framework)
    if seen is not None:
        found += _beyond(strategy, seen)
    return tuple(found)


def _beyond(strategy: Strategy, seen: _Seen) -> Iterator[str]:
    for name, most in seen.degrees.items():
        size = getattr(strategy.parallelism, name)
        if size > most:
            yield f"{name} {size} (at most {most})" if most > 1 else f"{name} {size}"
    usual = (Method.FULL.value, Sharding.NONE.value, Sharding.DDP.value, Recompute.NONE.value)
    for name in ("precision", "method", "sharding", "recompute"):
        value = getattr(strategy, name).value
        if value not in seen.ways[name] and value not in usual:
            yield f"{value} recompute" if name == "recompute" else value


@cache
def untried_deviation() -> float:
    """Return the log standard deviation that one unmeasured way adds: that of the most telling way that was measured.

    The calibration learned how far each kind of way (precision, method, recomputation ...) moves a step beyond its
    physics; one that nobody has measured may move it as far.
    """
    variances = packaged_fit().prior.variances
    return math.sqrt(max((one for term, one in variances.items() if set(term.labels) & set(WAYS)), default=0.0))
