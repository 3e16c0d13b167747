"""Collectives inside one node: latency, a pipeline that fills, and the bandwidth of the link."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mofang.errors import UsageError
from mofang.matching.curves.forms import Floats, Form, Limits, Shapes

__all__ = ["COLLECTIVE", "OPERATIONS", "collective_seconds", "wire_fraction_at"]

# Bytes that cross each rank's link over bytes of the whole tensor, at n ranks (Thakur, Rabenseifner and Gropp, IJHPCA
# 19(1), 2005; the same factors as nccl-tests' bus bandwidth).
OPERATIONS: Mapping[str, float] = {
    "all-reduce": 2.0,
    "all-reduce-custom": 2.0,
    "all-gather": 1.0,
    "reduce-scatter": 1.0,
    "all-to-all": 1.0,
}
_MOST_DOUBLINGS = 2.0  # eight ranks are the most that were timed: bandwidth is held there, latency keeps growing


def wire_fraction_at(operation: str, ranks: int) -> float:
    """Return the fraction of the tensor that crosses each rank's link; a send crosses it once.

    Raises:
        UsageError: there is no such collective.
    """
    if operation == "send-recv":
        return 1.0
    if operation not in OPERATIONS:
        raise UsageError(f"there is no collective {operation!r}", hint=f"one of {', '.join(OPERATIONS)}, send-recv")
    return OPERATIONS[operation] * (ranks - 1) / ranks


def collective_seconds(parameters: Floats, _limits: Limits, shapes: Shapes) -> Floats:
    """Return seconds of a collective that moves ``wire_bytes`` over each rank's link.

    latency + bytes / bandwidth (the Hockney model), and between the two the time to fill the pipeline, which saturates.

    Args:
        parameters: latency_s and bandwidth (fraction of the link) of two ranks, by what each is multiplied when ranks
            double (latency_growth, bandwidth_growth), fill_s and fill_bytes.
        shapes: wire_bytes, ranks, link (bytes/s one way).
    """
    latency, latency_growth, bandwidth, bandwidth_growth, fill, fill_bytes = parameters
    wire = shapes["wire_bytes"]
    doublings = np.log2(shapes["ranks"] / 2.0)
    timed = np.minimum(doublings, _MOST_DOUBLINGS)
    rate = shapes["link"] * np.minimum(bandwidth * bandwidth_growth**timed, 1.0)
    filling = fill * wire / (wire + fill_bytes)
    return np.asarray(latency * latency_growth**doublings + wire / rate + filling)


COLLECTIVE = Form(
    start={
        "latency_s": 8e-6,
        "latency_growth": 1.4,
        "bandwidth": 0.75,
        "bandwidth_growth": 1.0,
        "fill_s": 3e-5,
        "fill_bytes": 5e6,
    },
    width={
        "latency_s": 1.0,
        "latency_growth": 0.5,
        "bandwidth": 0.7,
        "bandwidth_growth": 0.7,
        "fill_s": 1.5,
        "fill_bytes": 1.5,
    },
    seconds=collective_seconds,
)
