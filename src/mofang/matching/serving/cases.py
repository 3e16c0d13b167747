"""Measurements as deployments: what a published row says, completed where it says nothing, as columns."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mofang.catalog.knowledge import Catalog
from mofang.catalog.pools import described_pool
from mofang.domain.hardware import Pool, Precision
from mofang.domain.measurement import ServingMeasurement, publisher
from mofang.domain.model import ModelArchitecture
from mofang.matching.serving.deployments import PRECISIONS, Deployments, Load
from mofang.matching.serving.settings import EngineSettings, engine_settings
from mofang.units import DeviceRequest, Range

__all__ = ["Cases", "Limits", "Mode", "benchmarks", "cases_of", "unusable"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Mode:
    """How a row was driven (codes in ``Cases.mode``)."""

    CLOSED = 0  # a fixed number of requests in flight, or always another one
    STATIC = 1  # one batch, read and written together
    LIMITED = 2  # as many as a latency limit allows
    SPLIT = 3  # separate prefill and decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Latency limits of a row; infinite: none."""

    ttft_s: Floats
    tpot_s: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """Rows of one model on one chip with one engine; several columns may be alternatives of one row.

    ``row`` is each column's place among the measurements given, ``replicas`` how many copies run. For separate prefill
    and decode ``cut`` is decode's, ``prefill`` and ``prefill_replicas`` the other side's.
    """

    model: ModelArchitecture
    pool: Pool
    framework: str
    settings: EngineSettings
    row: NDArray[np.int64]
    mode: NDArray[np.int64]
    cut: Deployments
    load: Load
    replicas: Floats
    limits: Limits
    prefill: Deployments
    prefill_replicas: Floats


@cache
def benchmarks() -> Mapping[str, Any]:
    """Return what published benchmarks fix; read once."""
    text = resources.files("mofang.matching.serving").joinpath("data/benchmarks.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Any] = yaml.safe_load(text)
    return found


def unusable(row: ServingMeasurement) -> str | None:
    """Return why a row cannot be predicted; None where it can."""
    if row.architecture is None:
        return "the catalogue has no model of that name"
    if not row.accelerator:
        return "the catalogue has no accelerator of that name"
    if row.num_devices is None:
        return "the number of devices is not stated"
    if row.scenario == "online-agentic":
        return "requests of one session share prefixes, and how much is not stated"
    return None


def cases_of(rows: Sequence[ServingMeasurement], catalog: Catalog) -> tuple[Cases, ...]:
    """Return the usable rows as columns, grouped by model, chip and engine."""
    groups: dict[tuple[ModelArchitecture, str, str], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.architecture is not None and unusable(row) is None:
            groups[row.architecture, row.accelerator, row.framework].append(index)
    return tuple(
        _cases(model, _pool(chip, catalog), framework, [(index, rows[index]) for index in members])
        for (model, chip, framework), members in groups.items()
    )


def _pool(chip: str, catalog: Catalog) -> Pool:
    return described_pool(DeviceRequest(name=chip, count=Range(minimum=1, maximum=None)), catalog)


@dataclass(frozen=True, slots=True)
class _Column:
    """One alternative of one row."""

    row: int
    mode: int
    cut: tuple[int, int, int, int]  # tp, pp, dp, ep
    prefill: tuple[int, int, int, int]
    replicas: float
    prefill_replicas: float
    precision: Precision
    kv: Precision
    input: float
    output: float
    concurrency: float  # of all replicas together
    limits: tuple[float, float]


def _cases(
    model: ModelArchitecture, pool: Pool, framework: str, rows: Iterable[tuple[int, ServingMeasurement]]
) -> Cases:
    settings = engine_settings(framework)
    columns = [column for index, row in rows for column in _columns(index, row, model, pool, settings)]
    replicas = np.array([column.replicas for column in columns])
    static = np.array([column.mode == Mode.STATIC for column in columns])
    each = np.array([column.concurrency for column in columns]) / replicas
    load = Load(
        input=np.array([column.input for column in columns]),
        cached=np.zeros(len(columns)),
        output=np.array([column.output for column in columns]),
        concurrency=np.maximum(each, 1.0),
        chunk=np.full(len(columns), float(settings.chunk)),
        max_requests=np.where(static, np.inf, float(settings.max_requests)),
    )
    return Cases(
        model=model,
        pool=pool,
        framework=framework,
        settings=settings,
        row=np.array([column.row for column in columns]),
        mode=np.array([column.mode for column in columns]),
        cut=_deployments([column.cut for column in columns], columns),
        load=load,
        replicas=replicas,
        limits=Limits(
            ttft_s=np.array([column.limits[0] for column in columns]),
            tpot_s=np.array([column.limits[1] for column in columns]),
        ),
        prefill=_deployments([column.prefill for column in columns], columns),
        prefill_replicas=np.array([column.prefill_replicas for column in columns]),
    )


def _deployments(cuts: Sequence[tuple[int, int, int, int]], columns: Sequence[_Column]) -> Deployments:
    table = np.array(cuts, dtype=np.int64).reshape(-1, 4)
    codes = {precision: code for code, precision in enumerate(PRECISIONS)}
    return Deployments(
        tp=table[:, 0],
        pp=table[:, 1],
        dp=table[:, 2],
        ep=table[:, 3],
        weights=np.array([codes[column.precision] for column in columns]),
        kv=np.array([codes[column.kv] for column in columns]),
    )


def _columns(
    index: int, row: ServingMeasurement, model: ModelArchitecture, pool: Pool, settings: EngineSettings
) -> list[_Column]:
    """Return the row's alternatives: one where it states how it was cut, else all that fit a tuned submission."""
    mode = _mode(row)
    tokens = _lengths(row)
    precision = _precision(row)
    kv = row.kv_precision or (Precision.FP8 if settings.narrow_cache and precision.bytes <= 1 else Precision.BF16)
    limits = benchmarks()["mlperf_limits"].get(row.scenario, {}) if mode == Mode.LIMITED else {}
    found = _split_layouts(row) if mode == Mode.SPLIT else [(cut, cut, 0.0, 0.0) for cut in _layouts(row, pool)]
    devices = row.num_devices or 1
    return [
        _Column(
            row=index,
            mode=mode,
            cut=cut,
            prefill=prefill,
            replicas=decoders or max(1.0, devices // (cut[0] * cut[1] * cut[2])),
            prefill_replicas=prefills or 1.0,
            precision=precision,
            kv=kv,
            input=tokens[0],
            output=tokens[1],
            concurrency=_concurrency(row),
            limits=(limits.get("ttft_s", np.inf), limits.get("tpot_s", np.inf)),
        )
        for cut, prefill, decoders, prefills in found
    ]


def _precision(row: ServingMeasurement) -> Precision:
    stated = benchmarks()["precisions"].get(row.source_id)
    if stated is not None and row.precision is Precision.FP16:
        return Precision(stated)
    return row.precision or Precision.BF16


def _mode(row: ServingMeasurement) -> int:
    if row.scenario in benchmarks()["mlperf_limits"]:
        return Mode.LIMITED
    if row.scenario == "online-disagg":
        return Mode.SPLIT
    fixed = row.concurrency is not None and "steady-state" not in row.notes and not _prompts(row)
    return Mode.STATIC if fixed and row.scenario in {"offline", "latency"} else Mode.CLOSED


def _prompts(row: ServingMeasurement) -> float | None:
    """Return how many requests were sent at once where a note says so."""
    found = re.search(r"\b(\d+) (?:requests|prompts)\b", row.notes)
    return None if found is None else float(found.group(1))


def _concurrency(row: ServingMeasurement) -> float:
    return row.concurrency or _prompts(row) or np.inf


def _lengths(row: ServingMeasurement) -> tuple[float, float]:
    """Return the mean tokens of prompts and answers: stated, or what the benchmark fixes."""
    known = benchmarks()
    task = re.search(r"task=([\w-]+)", row.notes)
    fixed = known.get(publisher(row.source_id), {})
    fixed = fixed.get(task.group(1) if task else row.model, {})
    default = {**known["default"], **fixed}
    answer = 1.0 if row.scenario == "latency" and row.output_tokens is None else default["output"]
    return float(row.input_tokens or default["input"]), float(row.output_tokens or answer)


def _layouts(row: ServingMeasurement, pool: Pool) -> list[tuple[int, int, int, int]]:
    """Return how the row may have been cut: as stated; else over all devices, or for a tuned benchmark any way."""
    devices, node = row.num_devices or 1, pool.devices_per_node
    pp, dp = row.pp or 1, row.dp or 1
    moe = row.architecture is not None and row.architecture.moe is not None
    dp = dp if moe else 1
    if row.tp is not None:
        tp, ep = row.tp, row.ep or 1
        if ep > tp * dp and devices >= ep * pp:
            tp = max(tp, ep // dp)  # experts on devices that attention must be cut or copied over too
        return [(tp, pp, dp, max(1, min(ep, tp * dp)))]
    if dp > 1:
        return [(max(1, devices // dp), 1, dp, row.ep or dp)]
    if publisher(row.source_id) == "mlperf":
        return [(1 << power, 1, 1, 1) for power in range(4) if (1 << power) <= min(devices, node)]
    tp = min(devices, node)
    return [(tp, max(1, devices // tp), 1, 1)]


_SIDE = r"(\d+)x\(tp(\d+),adp(\d+),ep(\d+),bs\d+\)"


def _split_layouts(
    row: ServingMeasurement,
) -> list[tuple[tuple[int, int, int, int], tuple[int, int, int, int], float, float]]:
    found = re.search(rf"P:{_SIDE} D:{_SIDE}", row.notes)
    if found is None:
        return []
    count, tp, dp, ep, decoders, decode_tp, decode_dp, decode_ep = (int(text) for text in found.groups())
    return [
        (
            (decode_tp, 1, decode_dp, max(1, min(decode_ep, decode_tp * decode_dp))),
            (tp, 1, dp, max(1, min(ep, tp * dp))),
            float(decoders),
            float(count),
        )
    ]
