"""The families of operators that are fitted apart, and which data-sheet peak each is a fraction of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mofang.domain.hardware import Accelerator, Precision
from mofang.errors import CatalogError, UsageError
from mofang.matching.curves.attention import DECODE, PREFILL
from mofang.matching.curves.experts import EXPERTS
from mofang.matching.curves.forms import Form, Limits
from mofang.matching.curves.links import COLLECTIVE
from mofang.matching.curves.products import PRODUCT
from mofang.matching.curves.streams import STREAM

__all__ = ["NUMBERS", "NumberFormat", "form_of", "limits_of", "link_of", "number_name", "peak_of"]

_FORMS: Mapping[str, Form] = {
    "matmul": PRODUCT,
    "attention-prefill": PREFILL,
    "attention-decode": DECODE,
    "experts": EXPERTS,
    "collective": COLLECTIVE,
    "stream": STREAM,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberFormat:
    """How products in one number format are reckoned: the fitted curve, the peak, bytes of a weight and an activation.

    ``tiles`` is the curve's name; formats without timings use that of bf16 on their own peak.
    """

    tiles: str
    peak: Precision
    weight_bytes: float
    activation_bytes: float


# nvfp4 carries an 8-bit scale for 16 values, int4 weights a 16-bit scale for 128 (weight-only: products run in bf16).
NUMBERS: Mapping[str, NumberFormat] = {
    "bf16": NumberFormat(tiles="bf16", peak=Precision.BF16, weight_bytes=2.0, activation_bytes=2.0),
    "fp16": NumberFormat(tiles="bf16", peak=Precision.FP16, weight_bytes=2.0, activation_bytes=2.0),
    "fp8": NumberFormat(tiles="fp8", peak=Precision.FP8, weight_bytes=1.0, activation_bytes=1.0),
    "fp8-block": NumberFormat(tiles="fp8-block", peak=Precision.FP8, weight_bytes=1.0, activation_bytes=1.0),
    "fp8-blas": NumberFormat(tiles="fp8-blas", peak=Precision.FP8, weight_bytes=1.0, activation_bytes=1.0),
    "fp4": NumberFormat(tiles="fp4", peak=Precision.FP4, weight_bytes=0.5625, activation_bytes=0.5625),
    "int8": NumberFormat(tiles="bf16", peak=Precision.INT8, weight_bytes=1.0, activation_bytes=1.0),
    "int4": NumberFormat(tiles="int4", peak=Precision.BF16, weight_bytes=0.515625, activation_bytes=2.0),
    "tf32": NumberFormat(tiles="bf16", peak=Precision.TF32, weight_bytes=4.0, activation_bytes=4.0),
    "fp32": NumberFormat(tiles="bf16", peak=Precision.FP32, weight_bytes=4.0, activation_bytes=4.0),
    "fp64": NumberFormat(tiles="bf16", peak=Precision.FP64, weight_bytes=8.0, activation_bytes=8.0),
}

# Where a data sheet names no peak of a format, the nearest it names and the ratio between the two that all others have.
_STAND_INS: Mapping[Precision, tuple[tuple[Precision, float], ...]] = {
    Precision.BF16: ((Precision.FP16, 1.0), (Precision.FP8, 0.5), (Precision.INT8, 0.5), (Precision.FP4, 0.25)),
    Precision.FP16: ((Precision.BF16, 1.0), (Precision.FP8, 0.5), (Precision.INT8, 0.5), (Precision.FP4, 0.25)),
    Precision.TF32: ((Precision.FP32, 1.0), (Precision.BF16, 0.5), (Precision.FP16, 0.5)),
    Precision.FP32: ((Precision.TF32, 0.5), (Precision.BF16, 1 / 16), (Precision.FP16, 1 / 16)),
    Precision.FP64: ((Precision.FP32, 0.5), (Precision.BF16, 1 / 32)),
}


_ALIASES = {"nvfp4": "fp4", "mxfp4": "fp4", "fp8_block": "fp8-block", "bfloat16": "bf16", "float16": "fp16"}


def number_name(precision: str) -> str:
    """Return the name in ``NUMBERS``.

    Raises:
        UsageError: there is no such number format.
    """
    name = _ALIASES.get(precision, str(precision))
    if name not in NUMBERS:
        raise UsageError(f"there is no number format {precision!r}", hint=f"one of {', '.join(NUMBERS)}")
    return name


def form_of(family: str) -> Form:
    """Return the form of a family such as ``matmul/fp8``."""
    return _FORMS[family.split("/", maxsplit=1)[0]]


def peak_of(accelerator: Accelerator, precision: Precision) -> float | None:
    """Return FLOP/s of the data sheet; of bf16, fp16, tf32 and fp32 also what a neighbouring format implies."""
    if precision in accelerator.peak_flops:
        return accelerator.peak_flops[precision]
    for other, ratio in _STAND_INS.get(precision, ()):
        if other in accelerator.peak_flops:
            return accelerator.peak_flops[other] * ratio
    return None


def limits_of(accelerator: Accelerator, precision: Precision) -> Limits:
    """Return the data-sheet limits of a chip for products in ``precision``.

    Raises:
        CatalogError: the chip has neither that peak nor one that implies it, or no memory bandwidth.
    """
    peak = peak_of(accelerator, precision)
    if peak is None:
        raise CatalogError(
            f"accelerator {accelerator.name} has no {precision} peak", hint="add it to its catalogue row"
        )
    if accelerator.memory_bandwidth <= 0:
        raise CatalogError(
            f"accelerator {accelerator.name} has no memory bandwidth", hint="add it to its catalogue row"
        )
    return Limits(peak=peak, bandwidth=accelerator.memory_bandwidth)


def link_of(accelerator: Accelerator, ranks: int) -> tuple[str, float]:
    """Return how ``ranks`` devices of one node are joined and bytes/s one way: switched, meshed or by PCIe.

    NVIDIA's links of more than a pair go through switches, so that any two chips have a link's whole bandwidth. Others'
    nodes of up to eight chips are full meshes: each pair has one of the links, and fewer ranks use fewer of them.
    """
    if not accelerator.scaleup_bandwidth or ranks > max(accelerator.scaleup_domain, 2):
        return "pcie", max(accelerator.pcie_bandwidth, _OLDEST_PCIE) / 2
    link = accelerator.scaleup_bandwidth / 2
    if accelerator.vendor == "NVIDIA" or not 2 < accelerator.scaleup_domain <= 8:
        return "switch", link
    return "mesh", link * min(1.0, (ranks - 1) / (accelerator.scaleup_domain - 1))


_OLDEST_PCIE = 32e9  # both ways, generation 3 with 16 lanes: what a chip has at least where nothing is stated
