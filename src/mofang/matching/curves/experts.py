"""The feed-forward of a mixture of experts: grouped products over the experts that tokens were sent to."""

from __future__ import annotations

import numpy as np

from mofang.matching.curves.forms import Floats, Form, Limits, Shapes, smooth_maximum

__all__ = ["EXPERTS", "experts_seconds", "touched_experts"]


def touched_experts(pairs: Floats, local: Floats, skew: Floats, shape: float) -> Floats:
    """Return how many of ``local`` experts get at least one of ``pairs`` (token, expert).

    Balanced routing (skew 0) spreads evenly. Otherwise an expert's share is taken to be gamma-distributed with this
    shape, so that the number of its tokens is negative binomial and P(none) = (1 + mean / shape)^-shape.
    """
    mean = pairs / local
    uneven = local * (1.0 - (1.0 + mean / shape) ** -shape)
    return np.where(skew > 0, np.maximum(uneven, np.minimum(1.0, pairs)), np.minimum(local, pairs))


def experts_seconds(parameters: Floats, limits: Limits, shapes: Shapes) -> Floats:
    """Return seconds of gate, up and down products of all experts on the busiest of ``ep`` devices.

    Engines that divide experts without dividing tokens keep rows for every (token, expert) pair on every device, and
    pass over them all in the activation and the final sum, though only their own are multiplied.

    Args:
        parameters: launch_s, compute, memory, pad (rows more an expert), narrow (inner width that halves the rate),
            sharpness, traffic (passes over the rows of all pairs), spread (shape of the experts' shares), uneven (load
            of the busiest device above the mean), uneven_local (how that falls with experts a device), uneven_skew.
        limits: peak, bandwidth.
        shapes: tokens, hidden, ffn (on this device), num_experts, top_k, ep, skew (exponent of the power law that
            tokens follow, 0: balanced), weight_bytes.
    """
    launch, compute, memory, pad, narrow, sharpness, traffic, shape, uneven, fall, steep = parameters
    local = np.maximum(1.0, shapes["num_experts"] / shapes["ep"])
    skew = shapes["skew"]
    load = 1.0 + uneven * np.log2(shapes["ep"]) * local**-fall * skew**steep
    sent = shapes["tokens"] * shapes["top_k"]
    pairs = np.maximum(1.0, np.minimum(sent, sent / shapes["ep"] * load))
    touched = touched_experts(pairs, local, skew, shape)
    weights = 3.0 * shapes["hidden"] * shapes["ffn"]
    padded = 2.0 * 3.0 * shapes["hidden"] * (shapes["ffn"] + narrow) * (pairs + pad * touched)
    rows = traffic * 2.0 * sent * (shapes["hidden"] + shapes["ffn"])
    products = padded / (limits.peak * compute)
    reading = touched * weights * shapes["weight_bytes"] / (limits.bandwidth * min(memory, 1.0))
    return np.asarray(launch + smooth_maximum(products, reading, sharpness) + rows / limits.bandwidth)


EXPERTS = Form(
    start={
        "launch_s": 2.5e-5,
        "compute": 0.6,
        "memory": 0.75,
        "pad": 30.0,
        "narrow": 100.0,
        "sharpness": 2.5,
        "traffic": 2.0,
        "spread": 1.0,
        "uneven": 0.4,
        "uneven_local": 0.3,
        "uneven_skew": 2.0,
    },
    width={
        "launch_s": 0.7,
        "compute": 0.7,
        "memory": 0.5,
        "pad": 1.0,
        "narrow": 1.5,
        "sharpness": 0.7,
        "traffic": 0.7,
        "spread": 0.7,
        "uneven": 0.7,
        "uneven_local": 0.5,
        "uneven_skew": 0.5,
    },
    seconds=experts_seconds,
)
