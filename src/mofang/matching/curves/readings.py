"""Timings of operators as columns, one table a chip and family, and the rules that leave out what cannot be true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mofang.domain.hardware import Accelerator
from mofang.matching.curves.forms import Floats, Limits

__all__ = ["Reading", "Readings", "columns", "possible"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One timing.

    ``shape`` has the names that the family's form takes; readings of one ``group`` are held out together; ``floor`` is
    the shortest time that the data sheet allows; ``rank`` is the order of preference where a chip has several sources.
    """

    accelerator: Accelerator
    family: str
    limits: Limits
    shape: Mapping[str, float]
    group: str
    seconds: float
    source: str
    floor: float = 0.0
    rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Timings of one family on one chip, as columns."""

    accelerator: Accelerator
    family: str
    limits: Limits
    shapes: Mapping[str, Floats]
    groups: tuple[str, ...]
    seconds: Floats
    sources: tuple[str, ...]

    def where(self, chosen: np.typing.NDArray[np.bool_]) -> Readings:
        """Return the chosen rows."""
        return Readings(
            accelerator=self.accelerator,
            family=self.family,
            limits=self.limits,
            shapes={name: values[chosen] for name, values in self.shapes.items()},
            groups=tuple(group for group, keep in zip(self.groups, chosen, strict=True) if keep),
            seconds=self.seconds[chosen],
            sources=self.sources,
        )


def possible(rows: Iterable[Reading]) -> tuple[list[Reading], list[Reading]]:
    """Return the readings that can be what they say, and those that cannot.

    A time below the floor means operands that stayed in the cache between repeats, which a step does not see. In
    prefill attention it means a sliding window, and then every reading with those heads was timed with one. An
    attention table that lists shapes twice has a further dimension (window, head width) that it does not state.
    """
    rows = list(rows)
    attention = [row for row in rows if row.family.startswith("attention-")]
    windowed = {_heads(row) for row in attention if row.seconds < row.floor and "prefill" in row.family}
    listed = Counter((row.accelerator.name, row.family, *row.shape.values()) for row in attention)
    vague = {key[:2] for key, times in listed.items() if times > 1}

    def stands(row: Reading) -> bool:
        unclear = (row.accelerator.name, row.family) in vague or _heads(row) in windowed
        return row.seconds >= row.floor and not unclear

    return [row for row in rows if stands(row)], [row for row in rows if not stands(row)]


def _heads(row: Reading) -> tuple[str, str, float, float]:
    return row.accelerator.name, row.family, row.shape.get("heads", 0.0), row.shape.get("kv_heads", 0.0)


def columns(rows: Iterable[Reading]) -> dict[tuple[str, str], Readings]:
    """Return tables by chip and family; of sources that differ in kind, only the preferred one is kept."""
    groups: dict[tuple[str, str], list[Reading]] = {}
    for row in rows:
        groups.setdefault((row.accelerator.name, row.family), []).append(row)
    return {key: _table(found) for key, found in sorted(groups.items())}


def _table(rows: list[Reading]) -> Readings:
    best = min(row.rank for row in rows)
    rows = [row for row in rows if row.rank == best]
    first = rows[0]
    return Readings(
        accelerator=first.accelerator,
        family=first.family,
        limits=first.limits,
        shapes={name: np.array([row.shape[name] for row in rows], dtype=np.float64) for name in first.shape},
        groups=tuple(row.group for row in rows),
        seconds=np.array([row.seconds for row in rows], dtype=np.float64),
        sources=tuple(sorted({row.source for row in rows})),
    )
