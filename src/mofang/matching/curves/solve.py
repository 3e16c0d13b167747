"""Robust least squares on logarithms: few positive parameters, relative errors, outliers that do not pull."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mofang.matching.curves.forms import Floats

__all__ = ["solve"]

_HUBER = 0.08  # relative error beyond which a point counts by its distance, not its square
_STEP = 1e-4


def solve(
    predict: Callable[[Floats], Floats], seconds: Floats, start: Floats, width: Floats, iterations: int = 60
) -> Floats:
    """Return the logarithms of parameters that fit ``seconds``; deterministic.

    Minimises Huber's loss (Huber, 1964) of the logarithmic errors plus a Gaussian prior around ``start``, by
    Levenberg-Marquardt with iteratively reweighted squares.

    Args:
        predict: logarithms of parameters -> seconds.
        seconds: what was measured.
        start: logarithms of the parameters to begin with, and the centre of the prior.
        width: standard deviations of the prior.
        iterations: at most so many steps.
    """
    target = np.log(seconds)
    values, damping = start.copy(), 1e-2
    errors = np.log(predict(values)) - target
    cost = _cost(errors, values, start, width)
    for _ in range(iterations):
        slopes = _slopes(predict, values, errors + target)
        weights = 1.0 / np.maximum(np.abs(errors), _HUBER)
        normal = (slopes * weights[:, None]).T @ slopes
        gradient = slopes.T @ (weights * errors) + (values - start) / width**2
        before = cost
        for _ in range(10):
            scaled = normal + np.diag(1.0 / width**2) + damping * np.diag(np.diag(normal) + 1e-9)
            tried = values - np.clip(np.linalg.solve(scaled, gradient), -1.0, 1.0)
            tried_errors = np.log(predict(tried)) - target
            tried_cost = _cost(tried_errors, tried, start, width)
            if tried_cost < cost:
                values, errors, cost, damping = tried, tried_errors, tried_cost, max(damping / 5, 1e-8)
                break
            damping *= 4
        if before - cost <= 1e-7 * before:
            break
    return values


def _cost(errors: Floats, values: Floats, start: Floats, width: Floats) -> float:
    size = np.abs(errors)
    loss = np.where(size < _HUBER, 0.5 * size**2 / _HUBER, size - 0.5 * _HUBER)
    return float(loss.sum() + 0.5 * (((values - start) / width) ** 2).sum())


def _slopes(predict: Callable[[Floats], Floats], values: Floats, logs: Floats) -> Floats:
    columns = []
    for index in range(len(values)):
        moved = values.copy()
        moved[index] += _STEP
        columns.append((np.log(predict(moved)) - logs) / _STEP)
    return np.stack(columns, axis=1)
