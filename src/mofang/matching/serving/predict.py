"""What the model alone predicts for measured deployments, before any calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from mofang.matching.serving.capacity import cache_tokens, most_requests
from mofang.matching.serving.cases import Cases, Mode, benchmarks
from mofang.matching.serving.deployments import Load
from mofang.matching.serving.passes import Passes
from mofang.matching.serving.points import operating_point
from mofang.matching.serving.split import PrefillPool, reading, split_loop, transfer_seconds
from mofang.matching.serving.steady import Steady, closed_loop, static_batch

__all__ = ["Physics", "predict"]

Floats = NDArray[np.float64]

_MEAN_OF_LIMIT = 0.85  # mean time per token where its 99th percentile meets the limit (MLPerf logs: 0.75 to 0.89)
_PARTS = np.exp2(-0.75 * np.arange(10))  # of the most requests, where the time per token is looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """Predictions of rows, one place a measurement; nan where a row cannot be predicted.

    ``tokens_per_s`` is of the whole deployment; ``median_tpot_s`` the iteration that half of the tokens see; ``parts``
    split one decode iteration, ``columns`` hold what the calibration needs to know of the operating point.
    """

    tokens_per_s: Floats
    tpot_s: Floats
    median_tpot_s: Floats
    ttft_s: Floats
    columns: Mapping[str, Floats]


def predict(cases: Sequence[Cases], count: int) -> Physics:
    """Return the predictions of ``count`` measurements, of which ``cases`` are the usable ones."""
    found: dict[str, Floats] = {}
    for one in cases:
        values = _best(one, _evaluate(one))
        rows = np.unique(one.row)
        for name, column in values.items():
            found.setdefault(name, np.full(count, np.nan))[rows] = column
    empty = np.full(count, np.nan)
    named = {name: found.pop(name, empty) for name in ("tokens_per_s", "tpot_s", "median_tpot_s", "ttft_s")}
    return Physics(**named, columns=found)


def _best(one: Cases, values: Mapping[str, Floats]) -> Mapping[str, Floats]:
    """Return one column for each row: of its alternatives, the one with the highest throughput."""
    order = np.lexsort((-values["tokens_per_s"], one.row))
    _, first = np.unique(one.row[order], return_index=True)
    chosen = order[first]
    return {name: column[chosen] for name, column in values.items()}


def _evaluate(one: Cases) -> Mapping[str, Floats]:
    passes = Passes(model=one.model, pool=one.pool, deployments=one.cut, settings=one.settings)
    tokens = cache_tokens(one.model, one.pool, one.cut, one.load, one.settings)
    most = np.maximum(most_requests(one.load, tokens, one.cut, one.settings), 1.0)
    static = (one.mode == Mode.STATIC) & (one.load.concurrency <= most)
    limited, split = one.mode == Mode.LIMITED, one.mode == Mode.SPLIT
    empty = {field.name: np.full(len(most), np.nan) for field in fields(Steady)}
    for mask, solve in (
        (~(static | limited | split), _closed),
        (static, _static),
        (limited, _limited),
        (split, _split),
    ):
        rows = np.flatnonzero(mask)
        if len(rows):
            part = solve(one, rows, most[rows])
            for name, column in empty.items():
                column[rows] = getattr(part, name)
    return _values(one, passes, Steady(**empty), static)


def _closed(one: Cases, rows: NDArray[np.intp], most: Floats) -> Steady:
    return closed_loop(*_rows(one, rows), most)


def _rows(one: Cases, rows: NDArray[np.intp]) -> tuple[Passes, Load]:
    cut = one.cut.where(rows)
    return Passes(model=one.model, pool=one.pool, deployments=cut, settings=one.settings), one.load.where(rows)


def _static(one: Cases, rows: NDArray[np.intp], most: Floats) -> Steady:
    return static_batch(*_rows(one, rows))


def _limited(one: Cases, rows: NDArray[np.intp], most: Floats) -> Steady:
    """Return the state with as many requests as keep the mean time per token under its limit.

    The time per token is tabulated at a few numbers of requests, the most first, and read between them.
    """
    passes, load = _rows(one, rows)
    limit = one.limits.tpot_s[rows] * _MEAN_OF_LIMIT
    wide = np.repeat(np.arange(len(rows)), len(_PARTS))
    tried = np.maximum(most[wide] * np.tile(_PARTS, len(rows)), 1.0)
    spread = replace(passes, deployments=passes.deployments.where(wide))
    shape = (len(rows), len(_PARTS))
    times = closed_loop(spread, load.where(wide), tried, rounds=2).tpot_s.reshape(shape)
    logs = np.log(tried).reshape(shape)
    chosen = [np.interp(np.log(limit[row]), np.log(times[row, ::-1]), logs[row, ::-1]) for row in range(len(rows))]
    return closed_loop(passes, load, np.exp(np.array(chosen)))


def _split(one: Cases, rows: NDArray[np.intp], most: Floats) -> Steady:
    passes, load = _rows(one, rows)
    prefill = replace(passes, deployments=one.prefill.where(rows))
    first = reading(prefill, load)
    transfer = transfer_seconds(prefill, load, one.pool)
    pool = PrefillPool(
        first=first, prefills=one.prefill_replicas[rows], decoders=one.replicas[rows], transfer_s=transfer
    )
    return split_loop(passes, load, pool, most)


def _values(one: Cases, passes: Passes, state: Steady, static: NDArray[np.bool_]) -> Mapping[str, Floats]:
    load = one.load
    # All requests start at once: the first wave's prompts wait for each other, the later waves' hardly do.
    ahead = np.minimum(state.in_flight, state.batch) / 2.0
    wave = np.where(static | ~np.isfinite(load.concurrency), 0.0, ahead * state.prefill_s / benchmarks()["waves"])
    return {
        "tokens_per_s": state.requests_per_s * load.output * one.replicas,
        "tpot_s": state.tpot_s,
        "median_tpot_s": np.where(state.mixed_part < 0.5, state.decode_s, state.mixed_s),
        "ttft_s": state.ttft_s + wave,
        "mode": one.mode.astype(np.float64),
        **operating_point(passes, load, state),
    }
