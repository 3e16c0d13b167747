"""What a serving prediction rests on: the chip's operators, how much was measured on it, and what lies nearest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import load_serving
from mofang.domain.estimate import Evidence
from mofang.domain.hardware import Precision
from mofang.domain.measurement import ServingMeasurement
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Serve
from mofang.matching.curves import curves_of
from mofang.matching.serving.calibration import calibration
from mofang.matching.serving.samples import model_kind
from mofang.matching.serving.space import Space

__all__ = ["evidence_of", "nearest"]

_NEAREST = 3
_UNSTATED = 512.0  # tokens, where a source does not say
# How far a difference takes two measurements apart; a factor of two in a size counts 1.
_APART = {"chip": 2.0, "vendor": 3.0, "framework": 1.0, "precision": 1.0, "kind": 3.0}


@dataclass(frozen=True, slots=True)
class _Known:
    """A measured service and what its distance to a plan follows from."""

    row: ServingMeasurement
    vendor: str
    kind: str
    active: float  # logarithm, base two


@cache
def _known() -> tuple[_Known, ...]:
    """Return the measured services that can be compared with plans; read once."""
    catalog = Catalog.load()
    vendors = {chip.name: chip.vendor for chip in catalog.accelerators}
    return tuple(_comparable(load_serving(None, catalog).rows, vendors))


def _comparable(rows: Iterable[ServingMeasurement], vendors: Mapping[str, str]) -> Iterator[_Known]:
    active: dict[ModelArchitecture, float] = {}
    for row in rows:
        model = row.architecture
        if model is None or not row.accelerator or row.num_devices is None:
            continue
        if row.tokens_per_s is None and row.tpot_s is None:
            continue
        if model not in active:
            active[model] = math.log2(model.active_params)
        yield _Known(row, vendors.get(row.accelerator, ""), model_kind(model), active[model])


def evidence_of(task: Serve, space: Space, precision: Precision) -> tuple[Evidence, ...]:
    """Return the evidence of a plan, the most general first."""
    chip = space.option.pool.accelerator
    known, own = calibration(), None if space.option.known is None else space.option.known.services
    mine = 0 if own is None else own.chips.get(chip.name, 0)
    count = known.chips.get(chip.name, 0) + mine
    if count:
        total = known.rows + (0 if own is None else len(own.rows))
        standing = f"calibrated on {total} measured services, {count} of them on {chip.name}"
        standing += f", {mine} of these {'is' if mine == 1 else 'are'} yours" if mine else ""
    else:
        standing = (
            f"nobody's measurement of a service on {chip.name} is known: its data sheet and {known.rows} services on "
            f"other chips are all that this prediction rests on, so its interval is wide"
        )
    found = [
        Evidence(what=f"operators: {curves_of(space.pool.accelerator).basis}", source=chip.source or "catalogue"),
        Evidence(what=standing, source=_where(mine) if count else "data sheet"),
    ]
    if space.option.pool.price_per_device_hour is None:
        found.append(Evidence(what="cost: unknown, no price is given", source="price list"))
    if not space.option.pool.is_cpu and chip.tdp_w is not None:
        found.append(
            Evidence(
                what="energy: the chips' rated power all the time; hosts, network and cooling are not counted",
                source=chip.source or "catalogue",
            )
        )
    return (*found, *nearest(task, space, precision))


def _where(mine: int) -> str:
    return "packaged and own measurements" if mine else "packaged measurements"


def nearest(task: Serve, space: Space, precision: Precision) -> tuple[Evidence, ...]:
    """Return the measured services nearest to a plan, one of each source."""
    own = None if space.option.known is None else space.option.known.services
    chip = space.option.pool.accelerator
    known = (*_known(), *(() if own is None else _comparable(own.rows, {chip.name: chip.vendor})))
    active, kind = math.log2(task.model.active_params), model_kind(task.model)
    lengths = task.traffic.input.mean, task.traffic.output.mean
    apart = sorted(
        ((_layout_distance(space, precision, one) + _work_distance(one, active, kind, lengths)), index)
        for index, one in enumerate(known)
    )
    chosen: dict[str, Evidence] = {}
    for distance, index in apart:
        row = known[index].row
        if row.source_id not in chosen:
            chosen[row.source_id] = _evidence(row, distance)
        if len(chosen) == _NEAREST:
            break
    return tuple(chosen.values())


def _layout_distance(space: Space, precision: Precision, one: _Known) -> float:
    chip, row = space.option.pool.accelerator, one.row
    apart = _APART["chip"] * (row.accelerator != chip.name) + _APART["vendor"] * (one.vendor != chip.vendor)
    apart += _APART["framework"] * (row.framework != space.framework.name)
    return apart + _APART["precision"] * (row.precision is not precision)


def _work_distance(one: _Known, active: float, kind: str, lengths: tuple[float, float]) -> float:
    row = one.row
    apart = _APART["kind"] * (one.kind != kind) + 2.0 * abs(one.active - active)
    for stated, wanted in zip((row.input_tokens, row.output_tokens), lengths, strict=True):
        apart += abs(math.log2((stated or _UNSTATED) / wanted)) / 2.0
    return apart


def _evidence(row: ServingMeasurement, distance: float) -> Evidence:
    devices = row.num_devices or 1
    load = "saturated" if row.concurrency is None else f"{row.concurrency:.0f} requests"
    lengths = f"{row.input_tokens:.0f}/{row.output_tokens:.0f} tokens" if row.input_tokens and row.output_tokens else ""
    figures = [f"{row.tokens_per_s / devices:.0f} tokens/s a device"] if row.tokens_per_s else []
    figures += [f"TPOT {row.tpot_s * 1e3:.1f} ms"] if row.tpot_s else []
    parts = [f"{row.model}, {devices} x {row.accelerator}", row.framework, lengths, load, *figures]
    return Evidence(
        what=", ".join(part for part in parts if part),
        source=f"{row.source_id}: {row.source}",
        value=None if row.tokens_per_s is None else row.tokens_per_s / devices,
        distance=round(distance, 2),
    )
