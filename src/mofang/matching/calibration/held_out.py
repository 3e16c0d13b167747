"""Predictions of measured rows by fits that never saw them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mofang.domain.measurement import publisher
from mofang.matching.calibration.calibration import NORMAL_90, scale_of
from mofang.matching.calibration.features import Features
from mofang.matching.calibration.learning import leave_out
from mofang.matching.calibration.observations import Observations
from mofang.matching.calibration.stored import Fit

__all__ = ["HeldOut", "LeaveOut", "held_out"]

Floats = NDArray[np.float64]


class LeaveOut(StrEnum):
    """What the fit that predicts a row has never seen."""

    FILE = "file"  # every row of the scored file
    SOURCE = "source"  # the row's source
    PUBLISHER = "publisher"  # everything of the row's publisher


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Expected log of measured over physical step time, and the ends of its 90 % interval; one row a target."""

    mean: Floats
    low: Floats
    high: Floats


def held_out(fit: Fit, own: Observations, targets: Features, leave: LeaveOut) -> HeldOut:
    """Return predictions of ``targets``, rows of a file of which ``own`` are those that state a speed.

    Packaged rows that are in the file too are left out, and the file's own are added, except those that ``leave`` says.
    The variances of the effects are the packaged ones.
    """
    mine = {fact.identity for fact in own.facts}
    packaged = fit.observations
    known = packaged.where(np.array([fact.identity not in mine for fact in packaged.facts], dtype=np.bool_))
    if leave is not LeaveOut.FILE:
        known = known.beside(own)
    left, groups = _groups(known.features, leave, "packaged"), _groups(targets, leave, "file")
    mean, variance = leave_out(fit.prior, known.features, known.residuals, left, targets=targets, target_groups=groups)
    scale = np.array([scale_of(fit.scales, str(vendor)) for vendor in targets.labels["vendor"]])
    spread = NORMAL_90 * np.sqrt(variance) * scale
    return HeldOut(mean=mean, low=mean - spread, high=mean + spread)


def _groups(features: Features, leave: LeaveOut, where: str) -> NDArray[np.str_]:
    """Return what the rows are left out together with; with a whole file left out, ``where`` they are."""
    sources = features.labels["source"]
    if leave is LeaveOut.FILE:
        return np.full(len(features), where)
    if leave is LeaveOut.PUBLISHER:
        return np.array([publisher(str(source)) for source in sources])
    return sources
