"""The two sides of a divided deployment: replicas that read prompts, and replicas that write answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mofang.domain.scenario import Serve
from mofang.matching.serving.deployments import Load
from mofang.matching.serving.passes import Iteration
from mofang.matching.serving.split import reading, transfer_seconds
from mofang.matching.serving.steady import Steady
from mofang.matching.serving.table import Table, calibrated, load_of, passes_of

__all__ = ["Readers", "Side", "Writers", "alone", "readers", "writers"]

Floats = NDArray[np.float64]

_READERS, _WRITERS = 4, 16  # layouts of each side that are tried, the best a device first


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Replicas of one row of a table."""

    table: Table
    row: int
    replicas: int

    @property
    def devices(self) -> int:
        """Devices of all replicas."""
        return int(self.table.cut.devices[self.row]) * self.replicas

    @property
    def nodes(self) -> int:
        """Nodes that they take."""
        return -(-self.devices // self.table.space.option.pool.devices_per_node)

    @property
    def even(self) -> bool:
        """Whether nodes are used evenly, with whole replicas."""
        each, share = int(self.table.cut.devices[self.row]), self.devices // self.nodes
        return self.devices % self.nodes == 0 and share % min(each, share) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """Prefill replicas of one table, ``rows`` the best: calibrated seconds and prompts a second of every row.

    ``doubt`` is the log standard deviations of the seconds, below and above (rows x 2).
    """

    table: Table
    rows: NDArray[np.intp]
    seconds: Floats
    rate: Floats
    transfer: Floats
    doubt: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Writers:
    """Decode replicas of one table, the best: rows with requests decoded together, and their calibrated iteration.

    ``transfer`` is the seconds in which a replica receives a prompt's cache; ``doubt`` as that of ``Readers``.
    """

    table: Table
    rows: NDArray[np.intp]
    batch: Floats
    seconds: Floats
    spread: Floats
    transfer: Floats
    doubt: Floats


def alone(load: Load, seconds: Floats) -> Steady:
    """Return the state of a replica whose every iteration takes ``seconds``: prompts only, or answers only."""
    return Steady(
        batch=np.ones_like(seconds),
        in_flight=load.concurrency,
        requests_per_s=1.0 / seconds,
        ttft_s=seconds,
        tpot_s=seconds,
        decode_s=seconds,
        mixed_s=seconds,
        mixed_part=np.zeros_like(seconds),
        prefill_s=seconds,
    )


def _best_rows(value: Floats, allowed: NDArray[np.bool_], count: int) -> NDArray[np.intp]:
    rows = np.flatnonzero(allowed)
    return rows[np.argsort(-value[rows], kind="stable")][:count]


def readers(task: Serve, table: Table) -> Readers:
    """Return the prefill replicas of a table."""
    load = load_of(task.traffic, table.space, np.ones(len(table)))
    passes = passes_of(task.model, table.space, table.cut)
    once = reading(passes, load)
    factors = calibrated(passes, load, alone(load, once.seconds), table.space, task.model, divided=True)
    later = np.exp(factors.start)
    rate = once.rate / later
    return Readers(
        table=table,
        rows=_best_rows(rate / table.cut.devices, table.fits, _READERS),
        seconds=once.seconds * later,
        rate=rate,
        transfer=transfer_seconds(passes, load, table.space.pool),
        doubt=factors.start_sd,
    )


def writers(task: Serve, table: Table) -> Writers:
    """Return the decode replicas of a table that keep the service level's time per token."""
    rows = np.repeat(np.arange(len(table)), len(table.grid))
    batch = np.minimum(np.tile(table.grid, len(table)), np.maximum(table.most[rows], 1.0))
    load = load_of(task.traffic, table.space, batch)
    passes = passes_of(task.model, table.space, table.cut.where(rows))
    none = np.zeros_like(batch)
    once = passes.total(Iteration(decoding=batch, context=load.context, prompt=none, prompts=none, reach=load.input))
    state = replace(alone(load, once), batch=batch)
    factors = calibrated(passes, load, state, table.space, task.model, divided=True)
    seconds = once * np.exp(factors.time)
    deviations = max(NormalDist().inv_cdf(task.level.percentile), 0.0)
    spread = 0.5 * seconds / np.sqrt(np.maximum(batch, 1.0) * np.maximum(load.steps / 10.0, 1.0))
    good = table.fits[rows]
    if task.level.tpot_s is not None:
        good &= seconds + deviations * spread <= task.level.tpot_s
    chosen = _best_rows(batch / seconds / table.cut.devices[rows], good, _WRITERS)
    return Writers(
        table=table,
        rows=rows[chosen],
        batch=batch[chosen],
        seconds=seconds[chosen],
        spread=spread[chosen],
        transfer=transfer_seconds(passes, load, table.space.pool)[chosen],
        doubt=factors.time_sd[chosen],
    )
