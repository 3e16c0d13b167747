"""Training predictions scored against measurements, by fits that never saw what they are scored on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mofang.catalog.knowledge import Catalog
from mofang.domain.measurement import TrainingMeasurement
from mofang.errors import CatalogError
from mofang.matching.calibration.comparisons import LayoutGroup, ScoredRow, Times, layout_groups, times_to_target
from mofang.matching.calibration.features import stack
from mofang.matching.calibration.held_out import LeaveOut, held_out
from mofang.matching.calibration.observations import observe, setting_features, translated
from mofang.matching.calibration.setting import Setting
from mofang.matching.calibration.stored import Fit, packaged_fit
from mofang.matching.calibration.translate import Unscorable
from mofang.matching.scores import Ranking, Score, ranking, score

__all__ = ["LeaveOut", "TrainingReport", "validate_training"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """How good predictions are.

    ``quantities`` counts the scored rows by what their sources state, ``assumed`` by what they do not, ``unscored`` the
    other rows by why they could not be scored.
    """

    leave_out: LeaveOut
    rows: tuple[ScoredRow, ...]
    overall: Score
    sources: Mapping[str, Score]
    vendors: Mapping[str, Score]
    groups: tuple[LayoutGroup, ...]
    layout: Ranking
    memory: Score
    times: tuple[Times, ...]
    quantities: Mapping[str, int]
    assumed: Mapping[str, int]
    unscored: Mapping[str, int]

    def to_data(self) -> dict[str, Any]:
        """Return the report as plain data; errors are fractions."""
        times = [{"benchmark": one.benchmark, "n": one.n, "rank_correlation": one.correlation} for one in self.times]
        return {
            "overall": self.overall.to_data(),
            "sources": [{"source_id": name, **one.to_data()} for name, one in self.sources.items()],
            "layout": self.layout.to_data(),
            "memory": {"n": self.memory.n, "median_ape": self.memory.median_ape},
            "vendors": [{"vendor": name, **one.to_data()} for name, one in self.vendors.items()],
            "times": times,
            "quantities": dict(self.quantities),
            "assumed": dict(self.assumed),
            "unscored": dict(self.unscored),
            "leave_out": self.leave_out.value,
        }


def validate_training(
    rows: Iterable[TrainingMeasurement],
    catalog: Catalog,
    leave_out: LeaveOut = LeaveOut.FILE,
    fit: Fit | None = None,
) -> TrainingReport:
    """Score predictions of measurements.

    Args:
        rows: what was measured.
        catalog: where chips are looked up.
        leave_out: what the fit that predicts a row has never seen.
        fit: the fit whose variances and observations are used; None: the packaged one.

    Raises:
        CatalogError: not one row can be compared with a prediction.
    """
    settings, others = translated(rows, catalog)
    unscored = Counter(str(reason) for _, reason in others)
    unscored.update(str(_silent(setting)) for setting in settings if setting.speed is None)
    if all(setting.speed is None for setting in settings):
        raise _nothing(unscored)
    scored = _scored(settings, packaged_fit() if fit is None else fit, leave_out)
    stated = [row for row in scored if row.setting.speed is not None]
    groups = layout_groups(stated)
    return TrainingReport(
        leave_out=leave_out,
        rows=tuple(scored),
        overall=_score(stated),
        sources=_by(stated, lambda row: row.setting.row.source_id),
        vendors=_by(stated, lambda row: row.vendor),
        groups=tuple(groups),
        layout=ranking({group.what: (group.predicted, group.measured) for group in groups}),
        memory=_memory(scored),
        times=tuple(times_to_target(scored)),
        quantities=Counter(str(row.setting.speed.quantity) for row in stated if row.setting.speed is not None),
        assumed=Counter(name for row in stated for name in row.setting.assumed),
        unscored=unscored,
    )


def _silent(setting: Setting) -> Unscorable:
    return Unscorable.TIME if setting.row.time_to_train_s else Unscorable.SPEED


def _nothing(unscored: Mapping[str, int]) -> CatalogError:
    reasons = "; ".join(f"{count} x {reason}" for reason, count in unscored.items()) or "there are none"
    return CatalogError(
        f"no row of these measurements can be scored: {reasons}",
        hint="`mofang catalog accelerators` and `mofang catalog models` show what is known",
    )


def _scored(settings: Sequence[Setting], fit: Fit, leave_out: LeaveOut) -> list[ScoredRow]:
    found = held_out(fit, observe(settings), stack([setting_features(setting) for setting in settings]), leave_out)
    factors = zip(np.exp(found.mean), np.exp(found.high), np.exp(found.low), strict=True)
    return [
        ScoredRow(
            setting=setting,
            predicted=setting.tokens_per_s(setting.step_time * float(factor)),
            low=setting.tokens_per_s(setting.step_time * float(slowest)),
            high=setting.tokens_per_s(setting.step_time * float(fastest)),
        )
        for setting, (factor, slowest, fastest) in zip(settings, factors, strict=True)
    ]


def _score(rows: Sequence[ScoredRow]) -> Score:
    return score(
        [row.predicted for row in rows],
        [row.measured for row in rows],
        [row.low for row in rows],
        [row.high for row in rows],
    )


def _by(rows: Sequence[ScoredRow], name: Callable[[ScoredRow], str]) -> dict[str, Score]:
    found: dict[str, list[ScoredRow]] = defaultdict(list)
    for row in rows:
        found[name(row)].append(row)
    return {group: _score(found[group]) for group in sorted(found)}


def _memory(rows: Sequence[ScoredRow]) -> Score:
    stated = [(row.setting.memory_bytes, size) for row in rows if (size := row.setting.row.memory_bytes)]
    return score([predicted for predicted, _ in stated], [measured for _, measured in stated])
