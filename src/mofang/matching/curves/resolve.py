"""Which fitted parameters stand for each family on one chip: its own, or relatives', with weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mofang.matching.curves.borrowing import kind_of
from mofang.matching.curves.families import NUMBERS
from mofang.matching.curves.forms import Floats
from mofang.matching.curves.links import OPERATIONS
from mofang.matching.curves.packaged import Fits
from mofang.matching.curves.products import PRODUCT
from mofang.matching.curves.relatives import LEVELS, Kin, relatives

__all__ = ["Curve", "family_of", "resolve"]

_ANCHOR = "matmul/fp8-blas"  # timed on chips whose other products were not
_NEARNESS = ("own", *LEVELS)
_LINKS = ("switch", "mesh", "pcie")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One family for one chip: parameters with their weights, and whose they are.

    ``level`` is ``own`` or how far away the owners are; ``spread`` the log standard deviation of a prediction;
    ``anchors`` are the chips whose large fp8 products scaled the share of the peak.
    """

    members: tuple[tuple[float, Floats], ...]
    owners: tuple[str, ...]
    level: str
    points: int
    spread: float
    anchors: tuple[str, ...] = ()


def resolve(target: Kin, packaged: Fits) -> dict[str, Curve]:
    """Return the curve of every family for the chip."""
    curves = {family: _curve(target, family, packaged) for family in packaged.fits}
    curves |= {name: _anchored(name, curves, packaged) for name in curves if name.startswith("matmul/")}
    names = [f"collective/{kind}/{name}" for kind in _LINKS for name in (*OPERATIONS, "send-recv")]
    return curves | {name: _collective(name, curves) for name in names}


def family_of(operator: str, number: str, *, weight_only: bool) -> str:
    """Return the family that products in a number format are reckoned with.

    Weight-only products run in bf16, but experts' 4-bit weights have kernels (and timings) of their own.
    """
    tiles = NUMBERS[number].tiles
    if operator == "matmul":
        return "matmul/bf16" if weight_only or tiles == "int4" else f"matmul/{tiles}"
    if weight_only:
        return "experts/int4" if NUMBERS[number].weight_bytes < 1 else "experts/bf16"
    return "experts/fp8" if tiles == "fp8-blas" else f"experts/{tiles}"


def _curve(target: Kin, family: str, packaged: Fits) -> Curve:
    found = packaged.fits[family]
    own = found.get(target.name)
    if own is not None:
        return Curve(
            members=((1.0, own.vector(family)),),
            owners=(target.name,),
            level="own",
            points=own.points,
            spread=own.log_sd,
        )
    level, kin = relatives(target, [packaged.kin[name] for name in found])
    return Curve(
        members=tuple((relative.weight, found[relative.kin.name].vector(family)) for relative in kin),
        owners=tuple(relative.kin.name for relative in sorted(kin, key=lambda relative: -relative.weight)),
        level=level,
        points=0,
        spread=packaged.borrowing[kind_of(family)][level],
    )


def _anchored(family: str, curves: Mapping[str, Curve], packaged: Fits) -> Curve:
    """Return the curve, made to agree with large fp8 products where those were timed nearer to this chip.

    What a chip reaches in those beside what the lenders reach says how its software compares with theirs, and scales
    the share of the peak. fp8 itself goes by them: another engine's kernels say less than the vendor's own library.
    """
    curve, anchor = curves[family], curves[_ANCHOR]
    nearer = _NEARNESS.index(anchor.level) < _NEARNESS.index(curve.level)
    if family == "matmul/fp8" and (nearer or curve.level == LEVELS[-1]):
        return anchor
    lenders = [packaged.fits[_ANCHOR][name].vector(_ANCHOR) for name in curve.owners if name in packaged.fits[_ANCHOR]]
    if not nearer or not lenders:
        return curve
    place = PRODUCT.names.index("compute")
    scale = np.ones(len(PRODUCT.names))
    reached = sum(weight * np.log(values[place]) for weight, values in anchor.members)
    scale[place] = np.exp(reached - np.mean([np.log(values[place]) for values in lenders]))
    members = tuple((weight, values * scale) for weight, values in curve.members)
    return replace(curve, members=members, anchors=anchor.owners)


def _collective(family: str, curves: Mapping[str, Curve]) -> Curve:
    """Return the curve of a collective, or that of all-reduce, byte for byte on the wire.

    All-reduce is what most chips were timed with. Without switches every operation reaches about its bus bandwidth, so
    that who borrows takes it for all of them.
    """
    usual = curves[f"{family.rpartition('/')[0]}/all-reduce"]
    found = curves.get(family)
    if found is None or (found.level != "own" and "/switch/" not in family):
        return usual
    return found
