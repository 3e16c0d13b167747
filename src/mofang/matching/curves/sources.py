"""Reads published timings of operators (``op_measurements.csv``): what each source's columns mean.

Three sources are known: ``aic:`` (tables of AIConfigurator), ``azure:`` (AI-benchmarking-guide, printed rates) and
``vidur:`` (profiles of Vidur, whole microseconds).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mofang.catalog.knowledge import Catalog
from mofang.domain.hardware import Accelerator, Precision
from mofang.errors import DataError
from mofang.matching.curves.families import NUMBERS, limits_of, link_of
from mofang.matching.curves.links import wire_fraction_at
from mofang.matching.curves.readings import Reading

__all__ = ["read_operators"]

_HEAD_DIM = 128.0  # the width that the attention tables were timed with
_FORMATS = {
    "bfloat16": "bf16",
    "fp16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8-block",
    "nvfp4": "fp4",
    "int4_wo": "int4",
}
_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9}
_OPERATIONS = {
    "all_reduce": "all-reduce",
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "alltoall": "all-to-all",
    "send_recv": "send-recv",
}
_PAIRED = {"NVIDIA H100 NVL (pairwise NVLink)": "NVIDIA H100-NVL-94GB"}
_COARSE_S = 5e-6  # whole microseconds say too little below this
_COARSE_RATE = 0.5  # as do rates printed with two decimals
_STREAM_BYTES = 1e9  # size of the arrays of the bandwidth tests, which no longer matters

Row = Mapping[str, str]
Shape = Mapping[str, str]


def read_operators(path: Path, catalog: Catalog) -> list[Reading]:
    """Return every timing that a family is fitted from.

    Raises:
        DataError: the file cannot be read, or a row of a known kind is broken; the line is named.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint="give the folder that holds op_measurements.csv") from None
    readings: list[Reading] = []
    for line, row in enumerate(rows, start=2):
        try:
            readings += _readings(row, catalog)
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"{path}, line {line}: {error}", hint="the schema is accelerator,op,shape,dtype ..."
            ) from None
    return readings


def _readings(row: Row, catalog: Catalog) -> Iterator[Reading]:
    read = _READERS.get(row["op"])
    if read is None:
        return
    name = _PAIRED.get(row["accelerator"], row["accelerator"].split(" (", maxsplit=1)[0])
    shape = dict(part.split("=", maxsplit=1) for part in row["shape"].split(";") if "=" in part)
    yield from read(catalog.accelerator(name), row, shape)


def _gemm(chip: Accelerator, row: Row, shape: Shape) -> Iterator[Reading]:
    m, n, k = (float(shape[name]) for name in "mnk")
    number = _FORMATS[row["dtype"]]
    if row["rate"]:  # by the vendor's library; for bf16 that is what engines call too
        number = "fp8-blas" if number == "fp8" else number
        seconds = 2 * m * n * k / (float(row["rate"]) * 1e12)
    else:
        seconds = float(row["time_us"]) * 1e-6
    yield _product(chip, number, (m, n, k), seconds, source=row["source"], rank=0)


def _product(
    chip: Accelerator, number: str, sizes: tuple[float, float, float], seconds: float, *, source: str, rank: int
) -> Reading:
    kind = NUMBERS[number]
    limits = limits_of(chip, kind.peak)
    m, n, k = sizes
    return Reading(
        accelerator=chip,
        family=f"matmul/{number}",
        limits=limits,
        shape={"m": m, "n": n, "k": k, "weight_bytes": kind.weight_bytes, "activation_bytes": kind.activation_bytes},
        group=f"{n:g}x{k:g}",
        seconds=seconds,
        source=source,
        floor=max(2 * m * n * k / limits.peak * 0.95, n * k * kind.weight_bytes / limits.bandwidth),
        rank=rank,
    )


def _profiled_product(chip: Accelerator, row: Row, shape: Shape) -> Iterator[Reading]:
    seconds = float(row["time_us"]) * 1e-6
    if seconds < _COARSE_S:
        return
    tokens, tp, width, inner = (float(shape[name]) for name in ("tokens", "tp", "embd", "ffn"))
    queries, keys = float(shape["heads"]) * _HEAD_DIM, float(shape["kv"]) * _HEAD_DIM
    n, k = {
        "vidur_attn_pre_proj": ((queries + 2 * keys) / tp, width),
        "vidur_attn_post_proj": (width, queries / tp),
        "vidur_mlp_up_proj": (2 * inner / tp, width),
        "vidur_mlp_down_proj": (width, inner / tp),
    }[row["op"]]
    yield _product(chip, "bf16", (tokens, n, k), seconds, source=row["source"], rank=1)


def _attention(chip: Accelerator, row: Row, shape: Shape) -> Iterator[Reading]:
    kv = "fp8" if row["dtype"].endswith("kv=fp8") else "bf16"
    limits = limits_of(chip, Precision.BF16)
    heads, kv_heads, batch = (float(shape[name]) for name in ("heads", "kv_heads", "batch"))
    prefill = row["op"] == "attn_prefill"
    length = float(shape["isl" if prefill else "kv_len"])
    kv_bytes = NUMBERS[kv].weight_bytes
    cache = 2 * batch * kv_heads * length * _HEAD_DIM * kv_bytes
    flops = 2 * batch * heads * length**2 * _HEAD_DIM if prefill else 0.0
    yield Reading(
        accelerator=chip,
        family=f"attention-{'prefill' if prefill else 'decode'}/{kv}",
        limits=limits,
        shape={
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": _HEAD_DIM,
            "batch": batch,
            "sequence": length if prefill else 1.0,
            "kv_length": length,
            "kv_bytes": kv_bytes,
        },
        group=f"{heads:g}/{kv_heads:g}x{length:g}",
        seconds=float(row["time_us"]) * 1e-6,
        source=row["source"],
        floor=max(flops / limits.peak, cache / limits.bandwidth),
    )


def _experts(chip: Accelerator, row: Row, shape: Shape) -> Iterator[Reading]:
    kind = NUMBERS[_FORMATS[row["dtype"]]]
    skew = 0.0 if shape["dist"] == "balanced" else float(shape["dist"].removeprefix("power_law_"))
    tokens, hidden, inner, top_k, experts, tp, ep = (
        float(shape[name]) for name in ("tokens", "hidden", "inter", "topk", "experts", "moe_tp", "moe_ep")
    )
    limits = limits_of(chip, kind.peak)
    # With all experts on the device, the least that is read is the weights of those one token is sent to.
    read = 3 * hidden * inner / tp * top_k * kind.weight_bytes if ep == 1 else 0.0
    yield Reading(
        accelerator=chip,
        family=f"experts/{kind.tiles}",
        limits=limits,
        shape={
            "tokens": tokens,
            "hidden": hidden,
            "ffn": inner / tp,
            "num_experts": experts,
            "top_k": top_k,
            "ep": ep,
            "skew": skew,
            "weight_bytes": kind.weight_bytes,
        },
        group=f"{hidden:g}x{inner:g}/{tp:g}/{ep:g}",
        seconds=float(row["time_us"]) * 1e-6,
        source=row["source"],
        floor=read / limits.bandwidth,
    )


def _collective(chip: Accelerator, row: Row, shape: Shape) -> Iterator[Reading]:
    operation, ranks, rank = _OPERATIONS[row["op"]], int(row["n_gpus"]), 0
    if row["kernel"].startswith("vLLM_custom"):
        operation, rank = "all-reduce-custom", int(row["kernel"].endswith("eager"))
    if row["source"].startswith("vidur:"):
        # Vidur's sizes are bytes, though its profiler calls them elements: as elements they would pass the link's peak.
        # Its two pairwise machines list the same send-recv figures, faster than the older one's link: a copy.
        copied = operation == "send-recv" and "(pairwise" in row["accelerator"]
        if int(shape["devices_per_node"]) != ranks or copied:
            return
        size, seconds, rank = float(shape["size"]), float(row["time_us"]) * 1e-6, 1
    elif row["rate"]:
        if float(row["rate"]) < _COARSE_RATE:
            return
        size = float(shape["message"][:-2]) * _UNITS[shape["message"][-2:]]
        seconds = size * wire_fraction_at(operation, ranks) / (float(row["rate"]) * 1e9)
    else:
        # oneCCL's all-gather counts what each rank sends, the others what each has in the end.
        parts = ranks if row["op"] == "all_gather" and row["kernel"].startswith("oneCCL") else 1
        size, seconds = float(shape["elements"]) * 2 * parts, float(row["time_us"]) * 1e-6
    kind, link = link_of(chip, ranks)
    yield Reading(
        accelerator=chip,
        family=f"collective/{kind}/{operation}",
        limits=limits_of(chip, Precision.BF16),
        shape={"wire_bytes": size * wire_fraction_at(operation, ranks), "ranks": float(ranks), "link": link},
        group=f"{size:.3g}",
        seconds=seconds,
        source=row["source"],
        rank=rank,
    )


def _moved(chip: Accelerator, row: Row, shape: Shape) -> Iterator[Reading]:
    seconds = float(row["time_us"]) * 1e-6
    if seconds < _COARSE_S / 2:
        return
    tokens, tp = float(shape["tokens"]), float(shape["tp"])
    rotated = (float(shape["heads"]) + float(shape["kv"])) * _HEAD_DIM / tp
    passes, width, kind = {
        "vidur_add": (3, float(shape["embd"]), "add"),
        "vidur_input_layernorm": (2, float(shape["embd"]), "norm"),
        "vidur_mlp_act": (3, float(shape["ffn"]) / tp, "activation"),
        "vidur_attn_rope": (2, rotated, "rope"),
    }[row["op"]]
    yield _stream(chip, kind, 2 * tokens * width * passes, seconds, width=width, source=row["source"])


def _bandwidth(chip: Accelerator, row: Row, _shape: Shape) -> Iterator[Reading]:
    seconds = _STREAM_BYTES / (float(row["rate"]) * 1e12)
    yield _stream(chip, "add", _STREAM_BYTES, seconds, width=0.0, source=row["source"])


def _stream(chip: Accelerator, kind: str, size: float, seconds: float, *, width: float, source: str) -> Reading:
    limits = limits_of(chip, Precision.BF16)
    return Reading(
        accelerator=chip,
        family=f"stream/{kind}",
        limits=limits,
        shape={"bytes": size, "width": width},
        group=f"{size:.3g}",
        seconds=seconds,
        source=source,
        floor=size / limits.bandwidth,
        rank=int(width > 0),  # tests of bandwidth before profiles
    )


_READERS: Mapping[str, Callable[[Accelerator, Row, Shape], Iterator[Reading]]] = {
    "gemm": _gemm,
    "attn_prefill": _attention,
    "attn_decode": _attention,
    "fused_moe": _experts,
    **dict.fromkeys(_OPERATIONS, _collective),
    **dict.fromkeys(
        ("vidur_attn_pre_proj", "vidur_attn_post_proj", "vidur_mlp_up_proj", "vidur_mlp_down_proj"), _profiled_product
    ),
    **dict.fromkeys(("vidur_add", "vidur_input_layernorm", "vidur_mlp_act", "vidur_attn_rope"), _moved),
    **dict.fromkeys([f"hbm_stream_{name}" for name in ("copy", "mul", "add", "triad", "dot")], _bandwidth),
}
