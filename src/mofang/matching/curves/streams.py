"""Operators that only move data: norms, activations, residual additions, rotations."""

from __future__ import annotations

import numpy as np

from mofang.matching.curves.forms import Floats, Form, Limits, Shapes, smooth_maximum

__all__ = ["STREAM", "stream_seconds"]


def stream_seconds(parameters: Floats, limits: Limits, shapes: Shapes) -> Floats:
    """Return seconds to read and write ``bytes`` altogether.

    One block of threads goes over one row, so that even a single row takes time along its width; many rows take what
    the memory takes.

    Args:
        parameters: launch_s, memory (fraction of the bandwidth), element_s (seconds an element of a row), sharpness.
        limits: bandwidth.
        shapes: bytes, width (elements a row).
    """
    launch, memory, element, sharpness = parameters
    moving = shapes["bytes"] / (limits.bandwidth * min(memory, 1.0))
    return np.asarray(launch + smooth_maximum(element * shapes["width"], moving, sharpness))


STREAM = Form(
    start={"launch_s": 2e-6, "memory": 0.8, "element_s": 3e-10, "sharpness": 3.0},
    width={"launch_s": 0.7, "memory": 0.3, "element_s": 1.0, "sharpness": 0.7},
    seconds=stream_seconds,
)
