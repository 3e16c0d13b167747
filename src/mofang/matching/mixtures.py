"""One job on two kinds of chips: pipeline stages of unequal depth, or replicas that take unequal parts of the batch.

An exact search over pairs of pools, each used whole: stages hold as many layers as their chips' speed and memory allow
(HetPipe, arXiv:2005.14038), or each pool takes the part of the global batch that lets both end together. A step takes
as long as the slower side; what both must exchange crosses the slower of their networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from mofang.domain.hardware import Link
from mofang.domain.model import ModelArchitecture
from mofang.domain.plan import Role
from mofang.domain.scenario import Scenario
from mofang.domain.strategy import Method
from mofang.matching.candidates import Layouts
from mofang.matching.choices import LOCAL
from mofang.matching.cuts import divisors, tensor_degrees
from mofang.matching.enumeration import Product
from mofang.matching.evaluation import Evaluated, evaluate, fitting
from mofang.matching.options import Option
from mofang.matching.sides import Half, Side, common_ways, fastest_by_part, sides_of, step_of, unit_of
from mofang.matching.work import Work

__all__ = ["Mixture", "mixtures"]

_GRADIENT_BYTES = 4.0
_SLACK = 0.1  # how far from balance a part of the batch may lie
_MOST_TOKENS = 2**16  # of a micro-batch
_MOST_SPLITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Two sides of one job, and the seconds of their step."""

    role: Role
    halves: tuple[Half, Half]
    step: float


def mixtures(scenario: Scenario, work: Work, options: Sequence[Option]) -> Iterator[Mixture]:
    """Yield the best mixture of each kind for each pair of pools of one cluster with different chips.

    Nothing is yielded for processor cores, this machine, pools without an end, experts, padded sequences, or where the
    user fixed how many workers, nodes or stages there are.
    """
    fixed = work.strategy
    if scenario.resources.nodes or any(value is not None for value in (fixed.workers, fixed.dp, fixed.pp, fixed.cp)):
        return
    if work.padded is not None or work.model.moe is not None:
        return
    for first, second in combinations(options, 2):
        for sides in _pairs(scenario, work, first, second):
            for method in work.methods:
                if all(method in side.framework.methods for side in sides):
                    found = (_by_batch(scenario, work, sides, method), _by_layers(scenario, work, sides, method))
                    yield from (one for one in found if one is not None)


def _pairs(scenario: Scenario, work: Work, first: Option, second: Option) -> Iterator[tuple[Side, Side]]:
    """Yield both pools, whole, with one framework where one runs on both, else with one each."""
    pools = (first.pool, second.pool)
    if pools[0].cluster != pools[1].cluster or pools[0].cluster in {"", LOCAL} or any(pool.is_cpu for pool in pools):
        return
    if pools[0].accelerator.name == pools[1].accelerator.name:
        return
    slower = Link(
        latency_s=max(pool.inter.latency_s for pool in pools), bandwidth=min(pool.inter.bandwidth for pool in pools)
    )
    left, right = (list(sides_of(scenario, work, option, slower)) for option in (first, second))
    both = [(one, other) for one in left for other in right]
    yield from [pair for pair in both if pair[0].framework is pair[1].framework] or both[:1]


def _by_batch(scenario: Scenario, work: Work, sides: tuple[Side, Side], method: Method) -> Mixture | None:
    """Return the best split of the global batch: for every part that both sides can take, their fastest layouts."""
    batch = work.global_batch
    speeds = [_sequences_per_second(scenario, work, side, method) for side in sides]
    if not all(speeds):
        return None
    middle = batch * speeds[0] / sum(speeds)
    low = max(1, math.floor(middle - _SLACK * batch))
    high = min(batch - 1, math.ceil(middle + _SLACK * batch))
    left = fastest_by_part(scenario, work, sides[0], method, least=low, most=high)
    right = fastest_by_part(scenario, work, sides[1], method, least=batch - high, most=batch - low)
    exchange = _exchange_seconds(work, sides)
    best: Mixture | None = None
    for part in sorted(left.keys() & {batch - part for part in right}):
        halves = (replace(left[part], share=part / batch), replace(right[batch - part], share=1.0 - part / batch))
        step = max(map(step_of, halves)) + exchange
        if best is None or step < best.step:
            best = Mixture(role=Role.REPLICAS, halves=halves, step=step)
    return best


def _sequences_per_second(scenario: Scenario, work: Work, side: Side, method: Method) -> float:
    """Return how fast a side alone is at about half of the batch; 0 where nothing fits."""
    half = max(1, work.global_batch // 2)
    found = fastest_by_part(scenario, work, side, method, least=half - half // 8, most=half)
    return max((part / step_of(one) for part, one in found.items()), default=0.0)


def _exchange_seconds(work: Work, sides: tuple[Side, Side]) -> float:
    """Return the seconds in which both sides swap their sums of gradients, each device its shard of them."""
    link = sides[0].pool.inter
    shard = _GRADIENT_BYTES * work.model.params / min(side.devices for side in sides)
    return link.latency_s + shard / link.bandwidth


def _by_layers(scenario: Scenario, work: Work, sides: tuple[Side, Side], method: Method) -> Mixture | None:
    """Return the best pipeline over both sides: as many layers on each stage as lets both keep pace.

    The splits that promise most by the layers' own time are worked out in full.
    """
    promising: list[tuple[float, _Pipelines, tuple[int, int]]] = []
    for ranks in divisors(math.gcd(*(side.devices for side in sides))):
        stages = (sides[0].devices // ranks, sides[1].devices // ranks)
        if sum(stages) <= work.model.layers:
            for shared in (False, True):
                one = _Pipelines(scenario=scenario, work=work, sides=sides, method=method, stages=stages, shared=shared)
                promising += [(step, one, depths) for step, depths in one.balanced()]
    promising.sort(key=lambda row: row[0])
    found = [mixture for _, one, depths in promising[:_MOST_SPLITS] if (mixture := one.best(depths)) is not None]
    return min(found, key=lambda mixture: mixture.step, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pipelines:
    """All pipelines with some stages on each side; ``shared``: weights that several ranks hold, or not."""

    scenario: Scenario
    work: Work
    sides: tuple[Side, Side]
    method: Method
    stages: tuple[int, int]
    shared: bool

    def balanced(self) -> Iterator[tuple[float, tuple[int, int]]]:
        """Yield the numbers of layers on a stage near balance that make up the model, with the step they promise."""
        layers, stages = self.work.model.layers, self.stages
        even = self._evaluated(None)
        if even is None:
            return
        paces = [float(one.totals.step.min()) * sum(stages) / layers for one in even]
        middle = layers * paces[1] / (stages[0] * paces[1] + stages[1] * paces[0])
        for depth in range(max(1, math.floor(middle) - 1), math.ceil(middle) + 2):
            rest = layers - stages[0] * depth
            if rest > 0 and rest % stages[1] == 0:
                depths = (depth, rest // stages[1])
                yield max(pace * each for pace, each in zip(paces, depths, strict=True)), depths

    def _product(self) -> Product:
        """Return every cut of a stage into as many ranks as it has, in every way that both sides know."""
        work, choice = self.work, self.work.strategy
        ranks = self.sides[0].devices // self.stages[0]
        on_node = math.gcd(*(side.devices // side.nodes for side in self.sides))
        sizes = [size for size in divisors(work.global_batch) if size == 1 or size * work.sequence <= _MOST_TOKENS]
        rows = [
            (tp, ranks // tp, size)
            for tp in tensor_degrees(work.model, choice.tp, on_node)
            for size in (sizes if choice.micro_batch is None else [choice.micro_batch])
            if on_node % tp == 0 and ranks % tp == 0 and work.global_batch % (ranks // tp * size) == 0
            if (ranks > tp) == self.shared
        ]
        table = np.array(rows, dtype=np.int64).reshape(-1, 3)
        ones = np.ones(len(table), dtype=np.int64)
        columns = dict.fromkeys(Layouts.__dataclass_fields__, ones) | {"pp": ones * sum(self.stages)}
        columns |= {"tp": table[:, 0], "dp": table[:, 1], "micro_batch": table[:, 2]}
        way = common_ways(work, self.sides, self.method, shared=self.shared)
        return Product(layouts=Layouts(**columns), ways=way, global_batch=work.global_batch)

    def best(self, depths: tuple[int, int]) -> Mixture | None:
        """Return the best pipeline with these layers on each side's stages; None where nothing fits."""
        found = self._evaluated(depths)
        if found is None:
            return None
        steps = np.maximum(found[0].totals.step, found[1].totals.step)
        row = int(np.argmin(steps))
        left = self.stages[0] * depths[0] / self.work.model.layers
        halves = (
            Half(side=self.sides[0], found=found[0], row=row, share=left),
            Half(side=self.sides[1], found=found[1], row=row, share=1.0 - left),
        )
        return Mixture(role=Role.STAGES, halves=halves, step=float(steps[row]))

    def _evaluated(self, depths: tuple[int, int] | None) -> tuple[Evaluated, Evaluated] | None:
        """Return, row by row, both sides of every candidate; None where none fits on both.

        A stage of some layers on one kind of chip behaves as in a pipeline of as many stages that are all like it.
        Without ``depths`` all stages are alike, and what fits is not asked.
        """
        product = self._product()
        if not len(product):
            return None
        pairs = product.crossed(np.arange(len(product.layouts)), np.arange(len(product.ways)))
        units, candidates, fits = [], [], np.ones(len(product), dtype=np.bool_)
        for side, depth in zip(self.sides, depths or (None, None), strict=True):
            work = self.work if depth is None else replace(self.work, model=self._deep(depth))
            unit, every = unit_of(work, side, self.method, product), product.take(*pairs)
            ones = np.ones_like(every.devices)
            every = replace(every, devices=ones * side.devices, nodes=ones * side.nodes)
            if depth is not None:
                fits &= fitting(self.scenario, unit, every).fits
            units.append(unit)
            candidates.append(every)
        keep = np.flatnonzero(fits)
        if not len(keep):
            return None
        left, right = (evaluate(unit, one.where(keep)) for unit, one in zip(units, candidates, strict=True))
        return left, right

    def _deep(self, depth: int) -> ModelArchitecture:
        return replace(self.work.model, layers=depth * sum(self.stages))
