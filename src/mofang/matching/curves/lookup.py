"""``curves_of``: the curves of a chip, built once, with what is known of them in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mofang.domain.hardware import Accelerator
from mofang.matching.curves.curves import Curves
from mofang.matching.curves.families import NUMBERS, link_of, peak_of
from mofang.matching.curves.packaged import Fits, fits
from mofang.matching.curves.relatives import Kin
from mofang.matching.curves.resolve import Curve, family_of, resolve

__all__ = ["curves_of"]

_CACHE: dict[tuple[str, ...], Curves] = {}
_DECISIVE = (
    "name",
    "vendor",
    "architecture",
    "year",
    "memory_type",
    "memory_bandwidth",
    "peak_flops",
    "scaleup_bandwidth",
    "scaleup_domain",
    "pcie_bandwidth",
)
# The family that stands for an operator.
_MAIN = {
    "matmul": "matmul/bf16",
    "attention": "attention-prefill/bf16",
    "experts": "experts/bf16",
    "collective": "collective/all-reduce",
    "stream": "stream/add",
}
_WORDS = {
    "matmul": "matrix products",
    "attention": "attention",
    "experts": "experts",
    "collective": "collectives",
    "stream": "memory-bound operators",
}
_NEARNESS = {"architecture": "same architecture", "vendor": "same vendor", "other": "another line of chips"}


def curves_of(accelerator: Accelerator) -> Curves:
    """Return the curves of a chip: its own where it was timed, else borrowed from relatives; cached.

    Borrowed curves are dimensionless: fractions of the relatives' peaks, bandwidths and links, taken of this chip's.
    """
    key = tuple(repr(getattr(accelerator, name)) for name in _DECISIVE)
    if key not in _CACHE:
        _CACHE[key] = _build(accelerator, fits())
    return _CACHE[key]


def _build(accelerator: Accelerator, packaged: Fits) -> Curves:
    curves = resolve(Kin.of(accelerator), packaged)
    kind = link_of(accelerator, min(8, max(2, accelerator.scaleup_domain)))[0]
    shown = {_plain(name): curve for name, curve in curves.items() if _plain(name) == name or f"/{kind}/" in name}
    known = {name: curve.level == "own" for name, curve in shown.items()}
    spread = {name: curve.spread for name, curve in shown.items()}
    for name, (curve, exact) in _formats(accelerator, curves).items():
        known[name] = exact and curve.level == "own"
        # A format that goes by another's curve is as uncertain as a chip that goes by its vendor's others.
        spread[name] = curve.spread if exact else math.hypot(curve.spread, packaged.borrowing["matmul"]["vendor"])
    return Curves(
        accelerator=accelerator,
        known=known | {operator: known[main] for operator, main in _MAIN.items()},
        spread=spread | {operator: spread[main] for operator, main in _MAIN.items()},
        basis=_basis({_WORDS[operator]: shown[main] for operator, main in _MAIN.items()}),
        curves=curves,
    )


def _plain(family: str) -> str:
    """Return the name without the kind of link."""
    parts = family.split("/")
    return f"{parts[0]}/{parts[-1]}"


def _formats(accelerator: Accelerator, curves: Mapping[str, Curve]) -> dict[str, tuple[Curve, bool]]:
    """Return by operator and number format the curve, and whether it is of that very format."""
    result = {}
    for operator in ("matmul", "experts"):
        for name, number in NUMBERS.items():
            weight_only = peak_of(accelerator, number.peak) is None
            family = family_of(operator, name, weight_only=weight_only)
            exact = family == f"{operator}/{'bf16' if name == 'fp16' else name}" and not weight_only
            result[f"{operator}/{name}"] = curves[family], exact
    return result


def _basis(curves: Mapping[str, Curve]) -> str:
    own = [f"{name} ({curve.points} timings)" for name, curve in curves.items() if curve.level == "own"]
    lent: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, curve in curves.items():
        if curve.level != "own":
            lent.setdefault((curve.level, curve.owners[:3]), []).append(name)
    parts = [f"timed on this chip: {', '.join(own)}"] if own else []
    for (level, owners), names in lent.items():
        parts.append(f"{', '.join(names)} borrowed from {', '.join(owners)} ({_NEARNESS[level]})")
    scaled = {name: curve.anchors for name, curve in curves.items() if curve.anchors}
    parts += [f"{name} scaled by large fp8 products of {', '.join(owners)}" for name, owners in scaled.items()]
    return "; ".join(parts)
