"""Measurements beside what physics alone predicts: the residuals that calibration learns from, and their evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.knowledge import Catalog
from mofang.domain.measurement import TrainingMeasurement
from mofang.matching.calibration.features import NOBODY, Features, candidate_features, stack
from mofang.matching.calibration.setting import Setting
from mofang.matching.calibration.translate import Unscorable, translate

__all__ = ["Fact", "Observations", "identity", "observe", "setting_features", "translated"]

Floats = NDArray[np.float64]

_FARTHEST = math.log(30.0)  # a source that is further off than this counts something else


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What people see of one observation."""

    identity: str
    what: str
    source_id: str
    tokens_per_s_per_device: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """One row a measurement; ``residuals`` are log(measured step time / physical step time)."""

    facts: tuple[Fact, ...]
    features: Features
    residuals: Floats

    def __len__(self) -> int:
        return len(self.facts)

    def where(self, mask: NDArray[np.bool_]) -> Observations:
        """Return the rows that ``mask`` keeps."""
        rows = np.flatnonzero(mask)
        return Observations(
            facts=tuple(self.facts[row] for row in rows),
            features=self.features.where(rows),
            residuals=self.residuals[rows],
        )

    def beside(self, other: Observations) -> Observations:
        """Return these rows and those of ``other`` after them."""
        return Observations(
            facts=self.facts + other.facts,
            features=stack([self.features, other.features]),
            residuals=np.concatenate([self.residuals, other.residuals]),
        )


def identity(row: TrainingMeasurement) -> str:
    """Return what tells one measured configuration from others, whatever was measured there."""
    layout = (row.tp, row.pp, row.cp, row.ep, row.dp, row.vpp, row.micro_batch, row.global_batch)
    setting = (row.num_devices, row.sequence, row.precision_text, row.task, row.framework_text, row.recompute)
    parts = (row.source_id, row.model, row.accelerator_text, *setting, *layout, row.sharding)
    return "|".join("" if part is None else str(part) for part in parts).casefold()


def translated(
    rows: Iterable[TrainingMeasurement], catalog: Catalog
) -> tuple[list[Setting], list[tuple[TrainingMeasurement, Unscorable]]]:
    """Return the rows that can be compared with a prediction, translated, and the others with the reason."""
    settings: list[Setting] = []
    others: list[tuple[TrainingMeasurement, Unscorable]] = []
    for row in rows:
        found = translate(row, catalog)
        if isinstance(found, Unscorable):
            others.append((row, found))
        else:
            settings.append(found)
    return settings, others


def observe(settings: Sequence[Setting], *, site: str = NOBODY) -> Observations:
    """Return the observations of translated rows, of which at least one must state a speed.

    Args:
        settings: translated rows; those that state no speed are passed over.
        site: where they were measured: the user's, or nobody's in particular.
    """
    facts, parts, residuals = [], [], []
    for setting in settings:
        if setting.speed is None:
            continue
        measured = setting.speed.tokens_per_s_per_device
        residual = math.log(setting.tokens_per_s(setting.step_time) / measured)
        facts.append(_fact(setting, measured))
        parts.append(setting_features(setting, site))
        residuals.append(min(max(residual, -_FARTHEST), _FARTHEST))
    return Observations(facts=tuple(facts), features=stack(parts), residuals=np.array(residuals))


def setting_features(setting: Setting, site: str = NOBODY) -> Features:
    """Return the one row of features of a translated measurement."""
    found = candidate_features(setting.work, setting.pool, setting.candidates, setting.framework, site)
    own = {"source": np.array([setting.row.source_id])}
    # What was filled in says nothing of what it does.
    own |= {name: np.array([NOBODY]) for name in ("recompute", "sharding", "precision") if name in setting.assumed}
    return Features(labels={**found.labels, **own}, sizes=found.sizes)


def _fact(setting: Setting, measured: float) -> Fact:
    row, one = setting.row, setting.candidates
    degrees = [(name, int(getattr(one, name)[0])) for name in ("dp", "tp", "pp", "cp", "ep")]
    layout = " ".join(f"{name}{size}" for name, size in degrees if size > 1)
    parts = (row.model, f"{setting.devices} x {setting.pool.accelerator.name}", row.framework or row.framework_text)
    shown = (*parts, row.precision_text or None, f"sequence {setting.work.sequence:,}", layout)
    what = ", ".join(part for part in shown if part)
    return Fact(identity=identity(row), what=what, source_id=row.source_id, tokens_per_s_per_device=measured)
