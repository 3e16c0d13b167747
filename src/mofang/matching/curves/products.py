"""Matrix products: a roofline with padding to tiles, a launch floor and a slow decline of very large ones."""

from __future__ import annotations

import numpy as np

from mofang.matching.curves.forms import Floats, Form, Limits, Shapes, smooth_maximum

__all__ = ["PRODUCT", "product_seconds"]

# The largest product that was timed; the decline is not carried beyond it.
_LARGEST_FLOPS = 2.0 * 16384 * 65536 * 8192
_FEW_ROWS = 6.0  # rows over which the kernels for very few rows give way to the usual ones


def product_seconds(parameters: Floats, limits: Limits, shapes: Shapes) -> Floats:
    """Return seconds of (m x k) times (k x n).

    Tiles: a product costs as much as one that is larger by a constant in each dimension (tile and wave quantisation,
    pipeline fill along k). Decline: the largest products run at lower clocks.

    Args:
        parameters: launch_s, compute and memory (fractions of peak and bandwidth), pad_m, pad_n, pad_k, sharpness,
            decline_flops, decline_power, few_rows (extra time at one row, as a fraction).
        limits: peak and bandwidth.
        shapes: m, n, k and the bytes of an element: activation_bytes, weight_bytes.
    """
    launch, compute, memory, pad_m, pad_n, pad_k, sharpness, knee, power, few = parameters
    m, n, k = shapes["m"], shapes["n"], shapes["k"]
    flops = 2.0 * m * n * k
    padded = 2.0 * (m + pad_m) * (n + pad_n) * (k + pad_k)
    declined = (1.0 + np.minimum(flops, _LARGEST_FLOPS) / knee) ** power
    multiplied = np.maximum(padded / compute * declined, flops) / limits.peak
    moved = m * n * 2.0 + m * k * shapes["activation_bytes"] + n * k * shapes["weight_bytes"]
    moving = moved / (limits.bandwidth * min(memory, 1.0)) * (1.0 + few * np.exp(-(m - 1.0) / _FEW_ROWS))
    return np.asarray(launch + smooth_maximum(multiplied, moving, sharpness))


PRODUCT = Form(
    start={
        "launch_s": 4e-6,
        "compute": 0.8,
        "memory": 0.85,
        "pad_m": 30.0,
        "pad_n": 200.0,
        "pad_k": 300.0,
        "sharpness": 4.0,
        "decline_flops": 1e12,
        "decline_power": 0.05,
        "few_rows": 0.03,
    },
    width={
        "launch_s": 0.7,
        "compute": 0.5,
        "memory": 0.3,
        "pad_m": 1.5,
        "pad_n": 1.5,
        "pad_k": 1.5,
        "sharpness": 0.7,
        "decline_flops": 2.0,
        "decline_power": 1.0,
        "few_rows": 1.5,
    },
    seconds=product_seconds,
)
