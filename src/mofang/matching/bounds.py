"""What no candidate can beat: bounds that let the search leave candidates out without losing the best.

How long a micro-batch takes a replica of a layout follows from its slice (tensor, context and expert parallel ranks,
micro-batch, place in the nodes) and its way, however many stages and replicas there are. So each slice is estimated
once in every way, as one stage. With p stages of v chunks and m micro-batches, a step takes at least m / p + (p - 1) /
(p v) times that: even stages and the bubble that is left (arXiv:2104.04473, section 2.2). Sending, uneven stages,
optimiser, data-parallel collectives and jitter only add to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mofang.domain.strategy import Method, Recompute, Sharding
from mofang.matching.candidates import PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.codes import combinations
from mofang.matching.correction import correction, least_correction
from mofang.matching.enumeration import Product, Ways
from mofang.matching.estimate import estimate
from mofang.matching.evaluation import Unit
from mofang.matching.totals import device_power
from mofang.matching.workers import is_measured

__all__ = ["Bounds", "Least", "bounds", "coarse", "frugal_ways"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SLICE = ("tp", "cp", "ep", "micro_batch", "on_node", "spans")
_IN_MICRO_BATCH = (
    "compute",
    "attention",
    "memory",
    "recompute",
    "tensor-parallel",
    "context-parallel",
    "expert-parallel",
)
_BELOW = 1.0 - 1e-9  # sums in another order may round up
_BUSY = ("compute", "attention", "memory", "recompute")


@dataclass(frozen=True, slots=True, kw_only=True)
class Least:
    """What some candidates need at least; infinite where a goal is unknown."""

    pace: Floats
    device_seconds: Floats
    cost: Floats
    energy: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """What turns seconds of a step into a run's goals: steps (None: a run of fixed duration), price, watts."""

    steps: float | None
    price: float | None
    power: tuple[float, float] | None

    @staticmethod
    def of(unit: Unit) -> _Rates:
        """Return those of a unit."""
        return _Rates(
            steps=None if unit.work.steps is None else float(unit.work.steps),
            price=unit.pool.price_per_device_hour,
            power=device_power(unit.pool),
        )

    def least(self, step: Floats, busy: Floats, devices: Floats) -> Least:
        """Return the goals of steps that take at least so long, of which a chip computes for at least ``busy``."""
        steps, step, busy = self.steps or 0.0, step * _BELOW, busy * _BELOW
        device_seconds = step * (steps * devices)
        unknown = np.full_like(step, np.inf)
        energy = unknown
        if self.power is not None:
            idle, rated = self.power
            energy = idle * device_seconds + busy * ((rated - idle) * steps * devices)
        return Least(
            pace=step if self.steps is None else step * steps,
            device_seconds=device_seconds,
            cost=unknown if self.price is None else device_seconds * (self.price / 3600.0),
            energy=energy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of one product. ``micro`` and ``busy`` are seconds of a micro-batch, a row a slice, a column a way.

    ``place`` is each layout's slice, ``times`` how many micro-batches' time it needs at least, ``work`` how many it
    computes on each device.
    """

    micro: Floats
    busy: Floats
    place: NDArray[np.intp]
    times: Floats
    work: Floats
    devices: Floats
    rates: _Rates

    def layouts(self) -> Least:
        """Return the least of each layout in any way."""
        micro, busy = self.micro.min(axis=1, initial=np.inf), self.busy.min(axis=1, initial=np.inf)
        return self.rates.least(micro[self.place] * self.times, busy[self.place] * self.work, self.devices)

    def candidates(self, rows: Ints) -> Least:
        """Return the least of these layouts in every way (layouts x ways)."""
        place = self.place[rows]
        step = self.micro[place] * self.times[rows, None]
        return self.rates.least(step, self.busy[place] * self.work[rows, None], self.devices[rows, None])


def coarse(unit: Unit) -> Least:
    """Return the least of all candidates of a unit: every device at the peak of its fastest format, all the time.

    Zeros where the devices' own operators were timed. A product computes its whole forward pass and, of frozen
    weights, half of the backward one.
    """
    work, pool = unit.work, unit.pool
    devices = max(int(one.layouts.devices.max(initial=0)) for one in unit.space.products)
    codes = np.concatenate([one.ways.precision for one in unit.space.products])
    peak = max((pool.accelerator.peak_flops.get(PRECISIONS[code], 0.0) for code in codes), default=0.0)
    device_step = 0.0
    if not (pool.is_cpu or is_measured(pool)) and peak > 0.0 and devices:
        inside = work.model.train_flops_per_token(work.sequence) - 6.0 * work.model.vocab * work.model.hidden
        flops = inside * (1.0 if unit.method is Method.FULL else 0.5) * work.global_batch * work.sequence
        device_step = flops / peak * least_correction(work, unit.option, unit.framework)
    rates = _Rates.of(unit)
    fastest, alone = (np.array([device_step / count]) for count in (max(devices, 1), 1))
    dear = rates.least(alone, alone, np.ones(1))
    return replace(dear, pace=rates.least(fastest, fastest, np.full(1, float(devices))).pace)


def bounds(unit: Unit, one: Product) -> Bounds:
    """Return the bounds of a product; zeros on processor cores.

    There the speed of a worker depends on those beside it, and candidates are few.
    """
    rows, work, pool = one.layouts, unit.work, unit.pool
    blank = np.zeros((1, len(one.ways)))
    micro, busy, place = blank, blank, np.zeros(len(rows), dtype=np.intp)
    accumulation, least = work.global_batch / (rows.dp * rows.micro_batch), np.ones(len(rows))
    if not pool.is_cpu and len(one):
        micro, busy, place = _slices(unit, one)
        least, by_way = _factors(unit, one)
        micro, busy, accumulation = micro * by_way, busy * by_way, accumulation * least
    return Bounds(
        micro=micro,
        busy=busy,
        place=place,
        times=accumulation / rows.pp + least * (rows.pp - 1.0) / (rows.pp * rows.vpp),
        work=accumulation / rows.pp,
        devices=rows.devices.astype(np.float64),
        rates=_Rates.of(unit),
    )


def _slices(unit: Unit, one: Product) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Return seconds of one micro-batch (all of them, and those in which a chip computes) by slice and way."""
    rows = one.layouts
    places = {"on_node": rows.devices // rows.nodes, "spans": (rows.nodes > 1).astype(np.int64)}
    found = combinations({name: places[name] if name in places else getattr(rows, name) for name in _SLICE})
    column = found.columns
    ones = np.ones(len(found), dtype=np.int64)
    nodes = ones + column["spans"]
    replicas = column["ep"] // np.gcd(column["ep"], column["tp"] * column["cp"])
    columns = {name: column[name] for name in ("tp", "cp", "ep", "micro_batch")}
    columns |= {"nodes": nodes, "devices": nodes * column["on_node"], "dp": replicas}
    columns |= dict.fromkeys(("threads", "pp", "vpp", "accumulation"), ones)
    candidates = Candidates(
        **{name: values[None, :] for name, values in columns.items()},
        **{name: getattr(one.ways, name)[:, None] for name in Ways.__slots__},
    )
    time = estimate(unit.work, unit.pool, candidates, unit.framework).time
    micro, busy = (
        np.ascontiguousarray(sum((time[part] for part in parts), np.zeros(candidates.shape)).T)
        for parts in (_IN_MICRO_BATCH, _BUSY)
    )
    return micro, busy, found.place


def _factors(unit: Unit, one: Product) -> tuple[Floats, Floats]:
    """Return the correction of every layout, and of every way over that of the first."""
    first = np.zeros(1, dtype=np.int64)
    by_layout = one.take(np.arange(len(one.layouts)), np.zeros(len(one.layouts), dtype=np.int64))
    by_way = one.take(np.zeros(len(one.ways), dtype=np.int64), np.arange(len(one.ways)))
    rows, ways, both = (
        correction(unit.work, unit.option, unit.framework, some) for some in (by_layout, by_way, one.take(first, first))
    )
    return rows, ways / both


def frugal_ways(ways: Ways) -> Ints:
    """Return the ways among which the one that needs least device memory is, whatever the layout.

    To compute activations again never takes more than not to, and sharded gradients never more than whole ones.
    Sharded weights may take more than whole ones, and so may state on the host: what is moved passes through buffers.
    """
    again = _recomputed(ways)
    most = again == again.max(initial=0)
    sharded = min(int(ways.sharding.max(initial=0)), SHARDINGS.index(Sharding.ZERO2))
    return np.flatnonzero(most & (ways.sharding >= sharded))


def _recomputed(ways: Ways) -> Ints:
    order = np.array([RECOMPUTES.index(one) for one in (Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL)])
    return np.argsort(order)[ways.recompute]
