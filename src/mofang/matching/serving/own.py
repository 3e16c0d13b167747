"""The user's own measurements of services: one more publisher, whose effects hold on the chips that he measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.knowledge import Catalog
from mofang.domain.measurement import ServingMeasurement
from mofang.matching.serving.calibration import ServingCalibration, calibration
from mofang.matching.serving.effects import Effects, Sample, gather
from mofang.matching.serving.samples import Measured, measured

__all__ = ["OWN", "OwnServices", "own_services"]

Floats = NDArray[np.float64]

OWN = "yours"  # the publisher of what the user measured


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnServices:
    """The packaged calibration with the user's effects in it; ``chips`` are those that he measured, with his rows."""

    calibration: ServingCalibration
    chips: Mapping[str, int]
    rows: tuple[ServingMeasurement, ...]

    def publisher_on(self, chip: str) -> str:
        """Return whose effects predictions on a chip have: the user's on his own, nobody's in particular elsewhere."""
        return OWN if chip in self.chips else ""


def own_services(rows: Sequence[ServingMeasurement], catalog: Catalog) -> OwnServices | None:
    """Return what own measurements of services say; None where none can be compared with a prediction."""
    found = measured(rows, catalog)
    used = np.logical_or.reduce([found.usable(target) for target in found.measured])
    if not used.any():
        return None
    packaged = calibration()
    return OwnServices(
        calibration=replace(
            packaged,
            time=_sharpened(packaged.time, found, ("throughput", "tpot")),
            start=_sharpened(packaged.start, found, ("ttft",)),
        ),
        chips=Counter(row.accelerator for row, is_used in zip(rows, used, strict=True) if is_used),
        rows=tuple(row for row, is_used in zip(rows, used, strict=True) if is_used),
    )


def _sharpened(known: Effects, found: Measured, targets: Sequence[str]) -> Effects:
    """Return the effects with those of the user: what is left of his residuals, under the priors of any publisher."""
    parts = [(target, np.flatnonzero(found.usable(target))) for target in targets]
    sample = _joined([_as_own(found.labelled(target).where(rows)) for target, rows in parts])
    if not len(sample):
        return known
    residuals = np.concatenate([found.residuals(target)[rows] for target, rows in parts])
    expected, _ = known.predict(sample)
    places = [index for index, block in enumerate(known.blocks) if "publisher" in block.labels]
    fitted = gather([known.blocks[index] for index in places], sample, residuals - expected).effects(known.scales)

    def beside(
        packaged: Mapping[tuple[int, str, str], float], own: Mapping[tuple[int, str, str], float]
    ) -> dict[tuple[int, str, str], float]:
        return {**packaged, **{(places[block], name, level): value for (block, name, level), value in own.items()}}

    return replace(known, means=beside(known.means, fitted.means), sds=beside(known.sds, fitted.sds))


def _as_own(sample: Sample) -> Sample:
    """Return rows as the user's: what their source was called says nothing."""
    size = len(sample)
    labels = {**sample.labels, "publisher": np.full(size, OWN), "source": np.full(size, "")}
    return Sample(labels=labels, features=sample.features)


def _joined(parts: Sequence[Sample]) -> Sample:
    first = parts[0]
    return Sample(
        labels={name: np.concatenate([part.labels[name] for part in parts]) for name in first.labels},
        features={name: np.concatenate([part.features[name] for part in parts]) for name in first.features},
    )
