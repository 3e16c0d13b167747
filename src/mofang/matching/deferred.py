"""Columns that are computed when they are first asked for: most candidates are never looked at in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Deferred", "Parts"]

Floats = NDArray[np.float64]


class Parts(Mapping[str, Floats]):
    """Columns by name, each computed when it is first asked for."""

    def __init__(self, names: tuple[str, ...], compute: Callable[[str], Floats]) -> None:
        self._names, self._compute = names, compute
        self._known: dict[str, Floats] = {}

    def __getitem__(self, name: str) -> Floats:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._known:
            self._known[name] = self._compute(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Deferred(Mapping[str, Floats]):
    """Columns by name, all computed together when one is first asked for."""

    def __init__(self, compute: Callable[[], Mapping[str, Floats]]) -> None:
        self._compute = compute

    @cached_property
    def _columns(self) -> Mapping[str, Floats]:
        return self._compute()

    def __getitem__(self, name: str) -> Floats:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)
