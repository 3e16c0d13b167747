"""Attention: prompts (and training's forward pass) in one form, one new token a sequence in another."""

from __future__ import annotations

import numpy as np

from mofang.matching.curves.forms import Floats, Form, Limits, Shapes, smooth_maximum

__all__ = ["DECODE", "PREFILL", "decode_seconds", "prefill_seconds"]


def prefill_seconds(parameters: Floats, limits: Limits, shapes: Shapes) -> Floats:
    """Return seconds of causal attention of ``sequence`` new positions, the last of ``kv_length``.

    2 FLOP x 2 products x head width for each pair of positions (arXiv:2205.14135, section 3); every row of tiles pays
    a constant number of positions more than it needs.

    Args:
        parameters: launch_s, compute, memory, pad (positions a row), fill (rows that fill the chip), sharpness.
        limits: peak of the products' precision, bandwidth.
        shapes: heads, kv_heads, head_dim, batch, sequence, kv_length, kv_bytes.
    """
    launch, compute, memory, pad, fill, sharpness = parameters
    rows = shapes["batch"] * shapes["heads"] * shapes["sequence"]
    seen = shapes["kv_length"] - 0.5 * shapes["sequence"] + 0.5 * pad
    multiplied = 4.0 * shapes["head_dim"] * (rows + fill) * seen / (limits.peak * compute)
    tokens = shapes["batch"] * shapes["head_dim"]
    cache = 2.0 * tokens * shapes["kv_heads"] * shapes["kv_length"] * shapes["kv_bytes"]
    moved = 4.0 * tokens * shapes["heads"] * shapes["sequence"] + cache
    return np.asarray(launch + smooth_maximum(multiplied, moved / (limits.bandwidth * min(memory, 1.0)), sharpness))


def decode_seconds(parameters: Floats, limits: Limits, shapes: Shapes) -> Floats:
    """Return seconds of attention of one new token a sequence over ``kv_length`` cached ones: reading the cache.

    Short sequences waste part of their tiles (``pad``), long ones end with a reduction over their parts
    (``split_s``). Timings repeat on the same cache, so those of a few 10 MB come from the chip's own cache and are
    faster than this form: a model's layers never find theirs there.

    Args:
        parameters: launch_s, compute, memory, pad (positions a sequence and head), sharpness, split_s (seconds for
            1,024 positions).
        limits: peak of the products' precision, bandwidth.
        shapes: heads, kv_heads, head_dim, batch, kv_length, kv_bytes.
    """
    launch, compute, memory, pad, sharpness, split = parameters
    read = 2.0 * shapes["batch"] * shapes["kv_heads"] * (shapes["kv_length"] + pad) * shapes["head_dim"]
    flops = 4.0 * shapes["batch"] * shapes["heads"] * shapes["kv_length"] * shapes["head_dim"]
    moving = read * shapes["kv_bytes"] / (limits.bandwidth * min(memory, 1.0))
    busy = smooth_maximum(flops / (limits.peak * compute), moving, sharpness)
    return np.asarray(launch + busy + split * shapes["kv_length"] / 1024.0)


PREFILL = Form(
    start={"launch_s": 8e-6, "compute": 0.7, "memory": 0.7, "pad": 600.0, "fill": 2000.0, "sharpness": 2.0},
    width={"launch_s": 0.7, "compute": 0.5, "memory": 0.5, "pad": 1.0, "fill": 1.5, "sharpness": 0.7},
    seconds=prefill_seconds,
)

DECODE = Form(
    start={"launch_s": 8e-6, "compute": 0.3, "memory": 0.85, "pad": 64.0, "sharpness": 2.0, "split_s": 2e-7},
    width={"launch_s": 0.7, "compute": 1.0, "memory": 0.3, "pad": 1.0, "sharpness": 0.7, "split_s": 1.5},
    seconds=decode_seconds,
)
