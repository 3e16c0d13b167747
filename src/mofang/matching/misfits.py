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
    fits = _fitting(scenario, replace(work, methods=(method,)), option, tally.smallest.get(key))
    parts = memory_parts(unit.memory_work, unit.pool, one, unit.framework)
    return Rejection(
        code=Reason.MEMORY,
        what=describe(option, one),
        need=closest.value,
        have=float(device_limit(option.pool) if bound_by_device else node_limit(option.pool)),
        hint=_hint(scenario, replace(work, methods=(method,)), option) if fits is None else f"fits with {fits[0]}",
        candidates=sum(one.count for one in groups),
        feasible=0 if fits is None else fits[1],
        data={part: float(size[0]) for part, size in parts.items()},
    )


def _fitting(scenario: Scenario, work: Work, option: Option, smallest: Closest | None) -> tuple[str, int] | None:
    """Return a candidate on as few of these devices as fit, and how many are known to; None where none does.

    What the sweep left out because other hardware is better may fit all the same.
    """
    if smallest is not None and smallest.unit is not None:
        return describe(option, smallest.unit.space.pick(np.array([smallest.number]))), smallest.count
    has_limits = scenario.limits.deadline_s is not None or scenario.limits.budget is not None
    if option.pool.is_cpu or has_limits:
        return None
    found = _smallest_of(scenario, work, option)
    return None if found is None else (found, 1)


def _hint(scenario: Scenario, work: Work, option: Option) -> str:
    if option.pool.is_cpu:
        return "use a smaller model, micro-batch or sequence, fewer workers, or a machine with more memory"
    wide = replace(option.pool, counts=Range(1, _MOST_DEVICES))
    found = _smallest_of(scenario, work, replace(option, pool=wide, counts=wide.counts))
    if found is None:
        return (
            f"does not fit on any number of {option.pool.accelerator.name} up to {_MOST_DEVICES:,}: use a device with "
            "more memory, or leave more of the strategy open"
        )
    return f"would fit with {found}"


def _smallest_of(scenario: Scenario, work: Work, option: Option) -> str | None:
    """Return the candidate on the fewest of an option's devices that fits."""
    best: tuple[int, int, str] | None = None
    frameworks, _ = choose_frameworks(work, scenario.task.kind, option)
    for index, framework in enumerate(frameworks):
        for method in (one for one in work.methods if one in framework.methods):
            places = Places.of(option.pool, option.counts, scenario.resources.nodes)
            space = space_of(work, option.pool, framework, method, layouts(work, framework, places))
            unit = Unit(index=0, option=option, framework=framework, method=method, work=work, space=space)
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
