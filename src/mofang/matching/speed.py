"""Seconds of operators on processor cores: a plain roofline, or one bent to what was measured on the host.

Both are t = max(FLOP / rate, bytes / bandwidth) + launches (the roofline, doi:10.1145/1498765.1498785). Where the host
was probed, each operator's own measurements say by how much that is off at sizes near the one asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Precision
from mofang.domain.rates import HostRates, Operator, OperatorRate, Phase
from mofang.matching.operators import dimensions, work

__all__ = ["CoreSpeed", "MeasuredSpeed", "Speed", "measured_speed"]

Floats = NDArray[np.float64]
Key = tuple[Operator, Phase]


class Speed(Protocol):
    """How fast one worker is."""

    def seconds(self, operator: Operator, phase: Phase, shapes: Floats) -> Floats:
        """Return seconds at every row of ``shapes`` (Q x 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSpeed:
    """Processor cores that nobody probed: a roofline at a constant part of the peak."""

    flops: float
    bandwidth: float
    element: float
    dispatch_s: float

    def seconds(self, operator: Operator, phase: Phase, shapes: Floats) -> Floats:
        """Return the roofline's seconds; a kernel takes at least as long as its launch."""
        done = work(operator, phase, shapes, self.element)
        busy = np.maximum(done.flops / self.flops, done.bytes / self.bandwidth)
        return np.maximum(busy, done.kernels * self.dispatch_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Roof:
    """One operator's roofline on a probed host; ``flops`` is the best rate it was seen to reach."""

    flops: float
    bandwidth: float
    element: float
    dispatch_s: float

    def seconds(self, key: Key, shapes: Floats) -> tuple[Floats, Floats]:
        """Return the roofline's seconds, and the part of them that no measurement can lower."""
        done = work(*key, shapes, self.element)
        arithmetic = done.flops / self.flops
        return np.maximum(arithmetic, done.bytes / self.bandwidth) + done.kernels * self.dispatch_s, arithmetic


@dataclass(frozen=True, slots=True, kw_only=True)
class _Points:
    """One operator's measurements: log2 of the sizes, and log of measured over roofline seconds."""

    roof: _Roof
    sizes: Floats  # P x 3
    ratio: Floats  # P


# Weight of a measurement 1 / (d^2 + near)^2, with d in factors of two: inverse distance weighting (Shepard,
# doi:10.1145/800186.810616), softened so that one noisy point does not decide alone.
_NEAR = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSpeed:
    """A worker on a probed host; ``scale`` is its seconds over those under the measured setting."""

    points: Mapping[Key, _Points]
    scale: float

    def seconds(self, operator: Operator, phase: Phase, shapes: Floats) -> Floats:
        """Return the roofline's seconds times the ratio that was measured near each size, never above the best rate."""
        known = self.points[operator, phase]
        plain, floor = known.roof.seconds((operator, phase), shapes)
        gap = np.log2(np.maximum(shapes, 1.0))[:, None, :] - known.sizes[None, :, :]
        weight = 1.0 / ((gap**2).sum(axis=2) + _NEAR) ** 2
        ratio = np.exp((weight * known.ratio).sum(axis=1) / weight.sum(axis=1))
        seconds: Floats = np.maximum(plain * ratio, floor) * self.scale
        return seconds


def measured_speed(
    rates: HostRates, *, device: str, precision: Precision, workers: int, threads: int
) -> MeasuredSpeed | None:
    """Return the speed of each of ``workers`` workers with ``threads`` threads; None where it was never measured."""
    mine = [rate for rate in rates.operators if rate.device == device]
    dtype = "bf16" if precision is Precision.BF16 else "fp32"
    if not any(rate.dtype == dtype for rate in mine):
        return None
    setting = _nearest_setting(mine, workers, threads)
    near = [rate for rate in mine if (rate.workers, rate.threads) == setting]
    bandwidth = max((_bandwidth(rate) for rate in near if rate.operator is Operator.ADD), default=1e10)
    roof = _Roof(flops=1.0, bandwidth=bandwidth, element=_ELEMENT[dtype], dispatch_s=rates.dispatch_s)
    points = {}
    for key in {(rate.operator, rate.phase) for rate in near}:
        rows = [rate for rate in near if (rate.operator, rate.phase) == key]
        points[key] = _points(key, [rate for rate in rows if rate.dtype == dtype] or rows, roof)
    points |= {key: points[other] for key, other in _STAND_INS.items() if key not in points and other in points}
    return MeasuredSpeed(points=points, scale=setting[1] / threads)


_ELEMENT = {"fp32": 4.0, "bf16": 2.0}

# A cast is only measured where there is one to make.
_STAND_INS: dict[Key, Key] = {
    (Operator.CAST, phase): (Operator.ADD, phase) for phase in (Phase.FORWARD, Phase.BACKWARD)
}


def _nearest_setting(rates: list[OperatorRate], workers: int, threads: int) -> tuple[int, int]:
    """Return the measured (workers, threads) closest to the one asked for, in factors of two."""

    def distance(setting: tuple[int, int]) -> float:
        return abs(math.log2(setting[0] / workers)) + abs(math.log2(setting[1] / threads))

    return min(sorted({(rate.workers, rate.threads) for rate in rates}), key=distance)


def _bandwidth(rate: OperatorRate) -> float:
    shape = np.array([dimensions(rate.shape)], dtype=np.float64)
    return float(work(rate.operator, rate.phase, shape, _ELEMENT[rate.dtype]).bytes[0]) / rate.seconds


def _points(key: Key, rates: list[OperatorRate], roof: _Roof) -> _Points:
    shapes = np.array([dimensions(rate.shape) for rate in rates], dtype=np.float64)
    seconds = np.array([rate.seconds for rate in rates])
    best = float((work(*key, shapes, roof.element).flops / seconds).max())
    roof = replace(roof, flops=max(best, 1.0))
    plain, _ = roof.seconds(key, shapes)
    return _Points(roof=roof, sizes=np.log2(shapes), ratio=np.log(seconds / plain))
