"""What is searched: a unit for each option, framework and method that can do the task, or the reasons against it."""

from __future__ import annotations

import numpy as np

from mofang.catalog.frameworks import Framework
from mofang.domain.reasons import Rejection
from mofang.domain.scenario import Scenario
from mofang.matching.choices import choose_frameworks
from mofang.matching.enumeration import precisions, space_of
from mofang.matching.evaluation import Unit
from mofang.matching.layouts import Places, device_counts, layouts
from mofang.matching.options import Option
from mofang.matching.rejections import batch_rejection, device_rejection, precision_rejection
from mofang.matching.work import Work, variants

__all__ = ["units_of"]


def units_of(scenario: Scenario, work: Work, option: Option, *, first: int) -> tuple[list[Unit], list[Rejection]]:
    """Return the units of an option, numbered from ``first``, and why others of it are not there."""
    chosen, refused = choose_frameworks(work, scenario.task.kind, option)
    if not chosen:
        return [], refused
    able = [framework for framework in chosen if precisions(work, option.pool, framework)]
    places = Places.of(option.pool, option.counts, scenario.resources.nodes)
    counts = device_counts(places)
    if not len(counts):
        return [], [device_rejection(option, scenario)]
    if not able:
        return [], [precision_rejection(work, option, len(counts))]
    units: list[Unit] = []
    for framework in able:
        units += _units(work, option, framework, places, first + len(units))
    reached = _reached(units)
    if not len(reached):
        return [], [_empty_rejection(scenario, work, option, counts)]
    # That fewer devices cannot be used evenly is no news; that all of them cannot is.
    is_whole = counts[-1] in reached or _is_fixed(work)
    return units, [] if is_whole else [batch_rejection(work, option, counts[-1:])]


def _units(work: Work, option: Option, framework: Framework, places: Places, first: int) -> list[Unit]:
    found: list[Unit] = []
    for method in work.methods:
        if method not in framework.methods:
            continue
        for variant in variants(work):
            one = layouts(variant, framework, places)
            space = space_of(variant, option.pool, framework, method, one)
            if len(space):
                index = first + len(found)
                found.append(
                    Unit(index=index, option=option, framework=framework, method=method, work=variant, space=space)
                )
    return found


def _reached(units: list[Unit]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    columns = [one.layouts.devices for unit in units for one in unit.space.products]
    return np.unique(np.concatenate(columns)) if columns else np.zeros(0, dtype=np.int64)


def _is_fixed(work: Work) -> bool:
    """Whether the user fixed degrees that leave out numbers of devices by themselves."""
    choice = work.strategy
    return any(
        value is not None for value in (choice.workers, choice.dp, choice.threads, choice.tp, choice.pp, choice.cp)
    )


def _empty_rejection(
    scenario: Scenario, work: Work, option: Option, counts: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> Rejection:
    """Say why there is no layout at all: the batch does not divide, or the devices asked for are not there."""
    asked = work.strategy.workers or work.strategy.dp
    threads = work.strategy.threads or 1
    if asked is not None and asked * threads not in counts and asked not in counts:
        return device_rejection(option, scenario)
    return batch_rejection(work, option, counts if asked is None else np.array([asked]))
