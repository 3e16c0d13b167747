"""What is too large for the memory, and the nearest change that would make it fit, found by searching."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mofang.domain.reasons import Reason, Rejection
from mofang.domain.scenario import Scenario
from mofang.domain.strategy import Method
from mofang.matching.bounds import frugal_ways
from mofang.matching.choices import choose_frameworks
from mofang.matching.enumeration import space_of
from mofang.matching.evaluation import Unit, fitting
from mofang.matching.layouts import Places, layouts
from mofang.matching.memory import memory_parts
from mofang.matching.options import Option
from mofang.matching.rejections import describe
from mofang.matching.tally import Closest, Tally, group_of
from mofang.matching.totals import device_limit, node_limit
from mofang.matching.work import Work
from mofang.units import Range

__all__ = ["memory_rejection"]

_MOST_DEVICES = 1 << 14
_BLOCK = 1 << 13  # layouts tried together


def memory_rejection(scenario: Scenario, work: Work, option: Option, method: Method, tally: Tally) -> Rejection | None:
    """Return one row for all candidates of an option and method that do not fit; the one shown comes closest.

    The hint is the smallest candidate that fits on this kind of device: of this many, or of more.
    """
    key = group_of(option, method)
    groups = [group[key] for group in (tally.device, tally.host) if key in group]
    closest = next((one for one in groups if one.unit is not None), None)
    if closest is None or closest.unit is None:
        return None
    bound_by_device = closest is tally.device.get(key)
    unit, one = closest.unit, closest.unit.space.pick(np.array([closest.number]))
    parts = memory_parts(unit.memory_work, unit.pool, one, unit.framework)
    return Rejection(
        code=Reason.MEMORY,
        what=describe(option, one),
        need=closest.value,
        have=float(device_limit(option.pool) if bound_by_device else node_limit(option.pool)),
        hint=_hint(scenario, replace(work, methods=(method,)), option, tally.smallest.get(key)),
        candidates=sum(one.count for one in groups),
        data={part: float(size[0]) for part, size in parts.items()},
    )


def _hint(scenario: Scenario, work: Work, option: Option, smallest: Closest | None) -> str:
    if smallest is not None and smallest.unit is not None:
        return f"fits with {describe(option, smallest.unit.space.pick(np.array([smallest.number])))}"
    if option.pool.is_cpu:
        return "use a smaller model, micro-batch or sequence, fewer workers, or a machine with more memory"
    found = _with_more(scenario, work, option)
    if found is None:
        return (
            f"does not fit on any number of {option.pool.accelerator.name} up to {_MOST_DEVICES:,}: use a device with "
            "more memory, or leave more of the strategy open"
        )
    return f"would fit with {found}"


def _with_more(scenario: Scenario, work: Work, option: Option) -> str | None:
    """Return the smallest candidate that fits where there are as many devices as it takes."""
    wide = replace(option.pool, counts=Range(1, _MOST_DEVICES))
    wider = Option(pool=wide, counts=wide.counts)
    best: tuple[int, int, str] | None = None
    frameworks, _ = choose_frameworks(work, scenario.task.kind, wider)
    for index, framework in enumerate(frameworks):
        for method in (one for one in work.methods if one in framework.methods):
            places = Places.of(wide, wide.counts, scenario.resources.nodes)
            space = space_of(work, wide, framework, method, layouts(work, framework, places))
            unit = Unit(index=0, option=wider, framework=framework, method=method, work=work, space=space)
            closest = _smallest(scenario, unit)
            if closest.unit is not None and (best is None or (int(closest.value), index) < best[:2]):
                text = describe(option, space.pick(np.array([closest.number])))
                best = (int(closest.value), index, text)
    return None if best is None else best[2]


def _smallest(scenario: Scenario, unit: Unit) -> Closest:
    """Return the candidate on the fewest devices that fits in the most frugal way."""
    found = Closest()
    for one in unit.space.products:
        frugal = frugal_ways(one.ways)
        order = np.argsort(one.layouts.devices, kind="stable")
        for start in range(0, len(order), _BLOCK):
            rows, ways = one.crossed(order[start : start + _BLOCK], frugal)
            fits = np.flatnonzero(fitting(scenario, unit, one.take(rows, ways)).fits)
            if len(fits):
                _keep(found, unit, one.numbers(rows[fits], ways[fits]), one.layouts.devices[rows[fits]])
                break
    return found


def _keep(found: Closest, unit: Unit, numbers: NDArray[np.int64], devices: NDArray[np.int64]) -> None:
    found.take(unit, numbers, devices.astype(np.float64), len(numbers))
