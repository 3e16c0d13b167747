"""Deployments of one model on one kind of chip as columns: layouts, formats and load, one row a deployment."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Precision

__all__ = ["PRECISIONS", "Deployments", "Load"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PRECISIONS = tuple(Precision)  # what the codes in the columns stand for


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployments:
    """How one replica is cut and stored.

    A replica has tp x pp x dp devices: attention is cut ``tp`` ways and copied ``dp`` times, each copy with requests of
    its own; the experts lie on all tp x dp devices of a stage, ``ep`` of them whole (the rest cut their width).
    """

    tp: Ints
    pp: Ints
    dp: Ints
    ep: Ints
    weights: Ints  # codes of PRECISIONS
    kv: Ints

    def __len__(self) -> int:
        return len(self.tp)

    @property
    def devices(self) -> Ints:
        """Devices of one replica."""
        return self.tp * self.pp * self.dp

    def where(self, rows: NDArray[np.bool_] | NDArray[np.intp] | Ints | slice) -> Deployments:
        """Return the rows that a mask, indices or a slice keep."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one replica is asked: tokens of a prompt and of an answer, requests in flight, and the scheduler's limits.

    ``cached`` tokens of a prompt are in a prefix cache and not computed. ``concurrency`` infinite means saturated:
    there is always another request. ``chunk`` is how many tokens one iteration may hold, ``max_requests`` how many
    requests.
    """

    input: Floats
    cached: Floats
    output: Floats
    concurrency: Floats
    chunk: Floats
    max_requests: Floats

    @property
    def read(self) -> Floats:
        """Tokens of a prompt that are computed."""
        found: Floats = np.maximum(self.input - self.cached, 1.0)
        return found

    @property
    def steps(self) -> Floats:
        """Iterations that decode an answer: its first token comes from its prompt."""
        found: Floats = np.maximum(self.output - 1.0, 1.0)
        return found

    @property
    def context(self) -> Floats:
        """Tokens of cache that a request has on average while it decodes."""
        found: Floats = self.input + self.output / 2.0
        return found

    def where(self, rows: NDArray[np.bool_] | NDArray[np.intp] | Ints | slice) -> Load:
        """Return the rows that a mask, indices or a slice keep."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})
