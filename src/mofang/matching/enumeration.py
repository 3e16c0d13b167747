"""Every way to run a training task with one framework on one pool, as a product that is unrolled block by block.

A candidate is a *layout* (devices, ranks, micro-batch) and a *way* (precision, recompute, sharding, compilation,
method, offload). Layouts and ways combine freely, but for one thing: ranks that share no weights with others have
nothing to shard. So a space is two products, and a candidate's number says where in them it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.domain.hardware import Pool, Precision
from mofang.domain.strategy import Method, Offload, Recompute, Sharding
from mofang.matching.candidates import METHODS, OFFLOADS, PRECISIONS, RECOMPUTES, SHARDINGS, Candidates, Layouts
from mofang.matching.work import Work

__all__ = ["Product", "Space", "Ways", "precisions", "space_of", "ways"]

Ints = NDArray[np.int64]

_COMPILING = frozenset({"gpt", "torchtitan"})  # frameworks in which torch.compile is a switch
_LARGEST_FIRST = (Precision.BF16, Precision.FP16, Precision.TF32, Precision.FP32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """One row a combination of codes (see ``Candidates``)."""

    precision: Ints
    recompute: Ints
    sharding: Ints
    compile: Ints
    method: Ints
    offload: Ints

    def __len__(self) -> int:
        return len(self.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Layouts x ways; ``first`` is the number of its first candidate in the space."""

    layouts: Layouts
    ways: Ways
    global_batch: int
    first: int = 0

    def __len__(self) -> int:
        return len(self.layouts) * len(self.ways)

    def numbers(self, rows: Ints, ways: Ints) -> Ints:
        """Return the numbers of candidates, one for each pair of a layout and a way (or of a grid of them)."""
        return self.first + rows * len(self.ways) + ways

    def take(self, rows: Ints, ways: Ints) -> Candidates:
        """Return candidates, one for each pair of a layout and a way (or of a grid of them)."""
        columns = {field.name: getattr(self.layouts, field.name)[rows] for field in fields(Layouts)}
        columns |= {field.name: getattr(self.ways, field.name)[ways] for field in fields(Ways)}
        accumulation = self.global_batch // (columns["dp"] * columns["micro_batch"])
        return Candidates(**columns, accumulation=accumulation)

    def crossed(self, rows: Ints, ways: Ints) -> tuple[Ints, Ints]:
        """Return every pair of these layouts and ways: all ways of the first layout first."""
        return np.repeat(rows, len(ways)), np.tile(ways, len(rows))

    def grid(self, rows: Ints, ways: Ints | None = None) -> tuple[Ints, Ints]:
        """Return the open grid of these layouts in these ways (None: in all), as ``Candidates`` has it."""
        ways = np.arange(len(self.ways)) if ways is None else ways
        return rows[None, :], ways[:, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """All candidates of one framework and method on one pool."""

    products: tuple[Product, ...]

    def __len__(self) -> int:
        return sum(len(one) for one in self.products)

    def grid(self) -> Candidates:
        """Return the grid of all layouts in all ways: the candidates, and some that shard what nobody shares."""
        rows, ways = (
            [
                np.concatenate([getattr(getattr(one, part), name) for one in self.products])
                for name in kind.__dataclass_fields__
            ]
            for part, kind in (("layouts", Layouts), ("ways", Ways))
        )
        layouts = Layouts(**dict(zip(Layouts.__dataclass_fields__, rows, strict=True)))
        every = Ways(**dict(zip(Ways.__dataclass_fields__, ways, strict=True)))
        whole = Product(layouts=layouts, ways=every, global_batch=self.products[0].global_batch)
        return whole.take(*whole.grid(np.arange(len(layouts))))

    def pick(self, numbers: Ints) -> Candidates:
        """Return the candidates of these numbers, in their order."""
        parts, places = [], []
        for one in self.products:
            here = np.flatnonzero((numbers >= one.first) & (numbers < one.first + len(one)))
            parts.append(one.take(*np.divmod(numbers[here] - one.first, max(1, len(one.ways)))))
            places.append(here)
        order = np.argsort(np.concatenate(places), kind="stable")
        whole = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(parts[0])
        }
        return Candidates(**whole).where(order)


def space_of(work: Work, pool: Pool, framework: Framework, method: Method, found: Layouts) -> Space:
    """Return the space of these layouts; layouts whose weights nobody else holds come first."""
    alone = found.dp * found.cp == 1
    first, products = 0, []
    for shared, rows in ((False, alone), (True, ~alone)):
        one = Product(
            layouts=found.where(rows),
            ways=ways(work, pool, framework, method, shared=shared),
            global_batch=work.global_batch,
            first=first,
        )
        first += len(one)
        products.append(one)
    return Space(products=tuple(products))


def ways(work: Work, pool: Pool, framework: Framework, method: Method, *, shared: bool) -> Ways:
    """Return every combination that the framework can do on the pool and the user's choice leaves."""
    choice = work.strategy
    shardings = [one for one in SHARDINGS if one in framework.shardings and (one is not Sharding.NONE) == shared]
    if shared and choice.sharding not in {None, Sharding.NONE}:
        shardings = [one for one in shardings if one is choice.sharding]
    rows = [
        (PRECISIONS.index(precision), RECOMPUTES.index(recompute), SHARDINGS.index(sharding), compiled, way, place)
        for precision, recompute, sharding, compiled, offload in product(
            precisions(work, pool, framework),
            _left(RECOMPUTES, framework.recomputes, choice.recompute),
            shardings,
            _compiling(choice.compile, pool, framework),
            _left(OFFLOADS, framework.offloads, choice.offload),
        )
        if _offloads(offload, sharding, method)
        for way, place in ((METHODS.index(method), OFFLOADS.index(offload)),)
    ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 6)
    names = ("precision", "recompute", "sharding", "compile", "method", "offload")
    return Ways(**{name: np.ascontiguousarray(table[:, place]) for place, name in enumerate(names)})


def _left(
    values: Sequence[Recompute] | Sequence[Offload], can: frozenset[object], fixed: object | None
) -> list[object]:
    return [value for value in values if value in can and fixed in {None, value}]


def _offloads(offload: object, sharding: Sharding, method: Method) -> bool:
    """Whether this state can be kept on the host: ZeRO-Offload moves shards, and adapters have no state to move."""
    if offload is Offload.NONE:
        return True
    if method is not Method.FULL:
        return offload is Offload.ALL and sharding in {Sharding.NONE, Sharding.FSDP}
    return sharding is not Sharding.DDP and (offload is Offload.OPTIMIZER or sharding in {Sharding.NONE, Sharding.FSDP})


def _compiling(fixed: bool | None, pool: Pool, framework: Framework) -> list[int]:
    if fixed is not None:
        return [int(fixed)] if not fixed or framework.name in _COMPILING else []
    return [0, 1] if framework.name in _COMPILING and not pool.is_cpu else [0]


def precisions(work: Work, pool: Pool, framework: Framework) -> tuple[Precision, ...]:
    """Return the precisions to try: the user's, else those in which models are commonly trained.

    On cores both that the recipes know; on chips the first of bf16, fp16, tf32 and fp32 that chip and framework share,
    and fp8 where both have it. What rounds harder (int8, fp4) is left to the user to ask for.
    """
    fixed = work.strategy.precision
    known = {Precision.FP32, Precision.BF16} if pool.is_cpu else set(pool.accelerator.peak_flops)
    can = known & framework.precisions
    if fixed is not None:
        return (fixed,) if fixed in can else ()
    if pool.is_cpu:
        return tuple(one for one in (Precision.FP32, Precision.BF16) if one in can)
    usual = tuple(one for one in _LARGEST_FIRST if one in can)[:1]
    return usual + ((Precision.FP8,) if Precision.FP8 in can else ())
