"""Measurements that only mean something side by side: layouts of one job, and submissions to one benchmark."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mofang.matching.calibration.convergence import samples_to_target
from mofang.matching.calibration.setting import Setting
from mofang.matching.calibration.translate import is_benchmark
from mofang.matching.scores import rank_correlation

__all__ = ["LayoutGroup", "ScoredRow", "Times", "layout_groups", "times_to_target"]

_FEWEST = 5  # submissions that a rank correlation says something of


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRow:
    """One measurement beside its prediction: tokens/s a device, with its 90 % interval."""

    setting: Setting
    predicted: float
    low: float
    high: float

    @property
    def measured(self) -> float:
        """Measured tokens/s a device; nan where the source states no speed."""
        speed = self.setting.speed
        return math.nan if speed is None else speed.tokens_per_s_per_device

    @property
    def vendor(self) -> str:
        """Who makes the chip."""
        return self.setting.pool.accelerator.vendor


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutGroup:
    """Rows that differ in their layout alone; speeds are tokens/s a device."""

    what: str
    layouts: tuple[str, ...]
    predicted: tuple[float, ...]
    measured: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Submissions to one benchmark; ``correlation`` is Spearman's, of predicted and measured time to the target."""

    benchmark: str
    n: int
    vendors: tuple[str, ...]
    correlation: float


def layout_groups(rows: Sequence[ScoredRow]) -> list[LayoutGroup]:
    """Return the groups of rows alike in source, model, chip, count, sequence, global batch, precision and task.

    Rows of one layout (they differ in something that no column holds) are one alternative, at its mean speed. A row
    whose layout is not stated is no alternative.
    """
    found: dict[str, dict[str, list[ScoredRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if _states_layout(row.setting):
            found[row.setting.job][_layout(row.setting)].append(row)
    return [_group(alternatives) for alternatives in found.values() if len(alternatives) > 1]


def _states_layout(setting: Setting) -> bool:
    row = setting.row
    return any(value is not None for value in (row.tp, row.pp, row.dp, row.sharding))


def _layout(setting: Setting) -> str:
    row = setting.row
    degrees = {name: getattr(row, name) for name in ("tp", "pp", "cp", "ep", "dp", "vpp")}
    parts = [f"{name}{size}" for name, size in degrees.items() if size is not None]
    parts += [f"micro-batch {row.micro_batch}"] if row.micro_batch is not None else []
    parts += [row.sharding.value] if row.sharding is not None else []
    parts += [f"recompute {row.recompute.value}"] if row.recompute is not None else []
    return " ".join(parts)


def _group(alternatives: dict[str, list[ScoredRow]]) -> LayoutGroup:
    row = next(iter(alternatives.values()))[0].setting.row
    chips, sizes = (
        f"{row.num_devices} x {row.accelerator_text}",
        (f"sequence {row.sequence}", f"batch {row.global_batch}"),
    )
    shown = (row.source_id, row.model, chips, *sizes, row.precision_text, row.task)
    return LayoutGroup(
        what=", ".join(str(part) for part in shown if part),
        layouts=tuple(alternatives),
        predicted=tuple(float(np.mean([row.predicted for row in rows])) for rows in alternatives.values()),
        measured=tuple(float(np.mean([row.measured for row in rows])) for rows in alternatives.values()),
    )


def times_to_target(rows: Sequence[ScoredRow]) -> list[Times]:
    """Return how submissions rank, a benchmark at a time.

    The predicted time is the samples that the reference code needs at the submission's batch, over predicted samples/s.
    """
    found: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for one in rows:
        row, samples = one.setting.row, samples_to_target(one.setting.row)
        if is_benchmark(row) and row.time_to_train_s and samples:
            speed = one.predicted * one.setting.devices / one.setting.work.sequence
            found[f"{row.model}, {row.task}"].append((samples / speed, row.time_to_train_s, one.vendor))
    return [_times(benchmark, runs) for benchmark, runs in found.items() if len(runs) >= _FEWEST]


def _times(benchmark: str, runs: Sequence[tuple[float, float, str]]) -> Times:
    predicted, measured, vendors = zip(*runs, strict=True)
    return Times(
        benchmark=benchmark,
        n=len(runs),
        vendors=tuple(sorted(set(vendors))),
        correlation=rank_correlation(predicted, measured),
    )
