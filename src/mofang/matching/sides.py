"""One side of a job on two kinds of chips: a pool used whole, its layouts, and how fast it is at a part of the work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.domain.hardware import Link, Pool
from mofang.domain.scenario import Scenario
from mofang.domain.strategy import Method
from mofang.matching.candidates import Candidates, Layouts
from mofang.matching.choices import choose_frameworks
from mofang.matching.cuts import cuts_of, divisors
from mofang.matching.enumeration import Product, Space, Ways, ways
from mofang.matching.evaluation import Evaluated, Unit, evaluate, fitting
from mofang.matching.options import Option
from mofang.matching.work import Work

__all__ = ["Half", "Side", "common_ways", "fastest_by_part", "sides_of", "step_of", "unit_of"]

Ints = NDArray[np.int64]

_MOST_TOKENS = 2**16  # of a micro-batch
_BLOCK = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """What one side does: a row of what was evaluated, and its share of the layers or of the batch."""

    side: Side
    found: Evaluated
    row: int
    share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A pool used whole, with a framework that runs there; its network is the slower one of both sides."""

    option: Option
    framework: Framework
    devices: int
    nodes: int

    @property
    def pool(self) -> Pool:
        """The option's pool."""
        return self.option.pool


def sides_of(scenario: Scenario, work: Work, option: Option, inter: Link) -> Iterator[Side]:
    """Yield the option's pool, used whole, with each framework that cuts layers and stages; none if it has no end."""
    most, per_node = option.counts.maximum, option.pool.devices_per_node
    if most is None:
        return
    devices = most if most <= per_node else most // per_node * per_node
    if devices not in option.counts or not devices:
        return
    whole = replace(option, pool=replace(option.pool, inter=inter))
    for framework in choose_frameworks(work, scenario.task.kind, option)[0]:
        if {"tp", "pp"} <= framework.cuts:
            yield Side(option=whole, framework=framework, devices=devices, nodes=max(1, devices // per_node))


def unit_of(work: Work, side: Side, method: Method, product: Product) -> Unit:
    """Return the unit in which a side's candidates are evaluated."""
    space = Space(products=(product,))
    return Unit(index=0, option=side.option, framework=side.framework, method=method, work=work, space=space)


def common_ways(work: Work, sides: tuple[Side, Side], method: Method, *, shared: bool) -> Ways:
    """Return the ways that both sides' frameworks and chips know, in one order."""
    first, second = (ways(work, side.pool, side.framework, method, shared=shared) for side in sides)
    tables = [np.stack([getattr(one, name) for name in Ways.__slots__], axis=1) for one in (first, second)]
    known = {tuple(row) for row in tables[1].tolist()}
    keep = np.array([tuple(row) in known for row in tables[0].tolist()], dtype=np.bool_)
    return Ways(**{name: getattr(first, name)[keep] for name in Ways.__slots__})


def step_of(half: Half) -> float:
    """Return the seconds of a half's step."""
    return float(half.found.totals.step[half.row])


def fastest_by_part(
    scenario: Scenario, work: Work, side: Side, method: Method, *, least: int, most: int
) -> dict[int, Half]:
    """Return, for each part of the global batch from ``least`` to ``most`` sequences, the fastest layout that fits.

    Parts that no layout can take are not there.
    """
    found: dict[int, Half] = {}
    for parts, unit, candidates in _by_rounds(work, side, method, least, most):
        keep = np.flatnonzero(fitting(scenario, unit, candidates).fits)
        if not len(keep):
            continue
        one = evaluate(unit, candidates.where(keep))
        order = np.lexsort((one.totals.step, parts[keep]))
        values, firsts = np.unique(parts[keep][order], return_index=True)
        for part, row in zip(values.tolist(), order[firsts].tolist(), strict=True):
            half = Half(side=side, found=one, row=row)
            if part not in found or step_of(half) < step_of(found[part]):
                found[part] = half
    return found


def _by_rounds(
    work: Work, side: Side, method: Method, least: int, most: int
) -> Iterator[tuple[Ints, Unit, Candidates]]:
    """Yield (part of the batch, unit, candidates): every layout with every number of rounds, a chunk at a time."""
    rows = _layouts_of(work, side)
    each = rows.dp * rows.micro_batch
    first, last = -(-least // each), most // each
    for shared in (False, True):
        here = np.flatnonzero((last >= np.maximum(first, 1)) & ((rows.dp * rows.cp > 1) == shared))
        counts = last[here] - np.maximum(first[here], 1) + 1
        index = np.repeat(here, counts)
        rounds = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts) + np.maximum(first[index], 1)
        whole = (rows.vpp[index] == 1) | (rounds % rows.pp[index] == 0)
        index, rounds = index[whole], rounds[whole]
        way = ways(work, side.pool, side.framework, method, shared=shared)
        product = Product(layouts=rows, ways=way, global_batch=work.global_batch)
        unit = unit_of(work, side, method, product)
        many = max(1, _BLOCK // max(1, len(way)))
        for start in range(0, len(index) if len(way) else 0, many):
            part = slice(start, start + many)
            pairs = product.crossed(index[part], np.arange(len(way)))
            again = np.repeat(rounds[part], len(way))
            yield again * each[pairs[0]], unit, replace(product.take(*pairs), accumulation=again)


def _layouts_of(work: Work, side: Side) -> Layouts:
    """Return the layouts that use a side whole, whatever they leave of the batch."""
    on_node = side.devices // side.nodes
    cuts = cuts_of(work.model, work.sequence, work.strategy, side.framework.cuts, on_node)
    keep = np.flatnonzero((side.devices % cuts.ranks == 0) & (on_node % cuts.tp == 0))
    fixed = work.strategy.micro_batch
    sizes = [size for size in divisors(work.global_batch) if size == 1 or size * work.sequence <= _MOST_TOKENS]
    sizes = sizes if fixed is None else [fixed]
    index = np.repeat(keep, len(sizes))
    ones = np.ones_like(index)
    return Layouts(
        nodes=ones * side.nodes,
        devices=ones * side.devices,
        threads=ones,
        dp=side.devices // cuts.ranks[index],
        tp=cuts.tp[index],
        pp=cuts.pp[index],
        cp=cuts.cp[index],
        ep=ones,
        vpp=cuts.vpp[index],
        micro_batch=np.tile(np.array(sizes, dtype=np.int64), len(keep)),
    )
