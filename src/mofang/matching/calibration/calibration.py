"""What measurements say the physical estimate is off by: a factor, its doubt, and the nearest measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.catalog.knowledge import Catalog
from mofang.domain.estimate import Evidence
from mofang.domain.hardware import Pool
from mofang.domain.measurement import TrainingMeasurement
from mofang.matching.calibration.additive import Additive
from mofang.matching.calibration.evidence import nearest_observations, standing
from mofang.matching.calibration.features import NOBODY, call_labels, call_sizes, candidate_features
from mofang.matching.calibration.observations import Observations, observe, translated
from mofang.matching.calibration.process import condition, surprise
from mofang.matching.calibration.runs import run_setting
from mofang.matching.calibration.stored import Fit, packaged_fit
from mofang.matching.candidates import Candidates
from mofang.matching.work import Work

__all__ = ["NORMAL_90", "SITE", "Calibration", "calibration", "local_calibration"]

Floats = NDArray[np.float64]

NORMAL_90 = 1.6449  # deviations of the normal distribution to either side of the mean that hold 90 %
SITE = "yours"  # where the user's own measurements were taken
_FEW = 64  # rows whose deviations are each worked out
_CALLS = 256  # calls whose tables are kept


class Calibration:
    """A fit, ready to be asked. ``site`` is where predictions are for: the user's, or nobody's in particular."""

    def __init__(self, fit: Fit, site: str = NOBODY) -> None:
        self._fit, self._site = fit, site
        self._calls: dict[tuple[object, ...], Additive] = {}

    def log_factor(self, work: Work, pool: Pool, framework: Framework | None, candidates: Candidates) -> Floats:
        """Return, for every candidate, the expected log of its step time over the physical one; tens of ns a row."""
        return self._call(work, pool, framework).mean(candidates)

    def ratio(self, work: Work, pool: Pool, framework: Framework | None, candidates: Candidates) -> Floats:
        """Return the exponential of ``log_factor``."""
        return self._call(work, pool, framework).ratio(candidates)

    def least_log_factor(self, work: Work, pool: Pool, framework: Framework | None) -> float:
        """Return what ``log_factor`` is below for no candidate."""
        return self._call(work, pool, framework).least()

    def factor(
        self, work: Work, pool: Pool, framework: Framework | None, candidates: Candidates
    ) -> tuple[Floats, Floats]:
        """Return the expected log of step time over the physical one, and its standard deviation.

        exp(mean -+ 1.6449 deviation) holds 90 % of measurements. Of more than 64 rows all get the deviation of the row
        in the middle: it depends far more on model, chip and framework than on the layout.
        """
        mean = self.log_factor(work, pool, framework, candidates)
        if len(candidates) <= _FEW:
            return mean, self._deviation(work, pool, framework, candidates)
        middle = candidates.where(np.array([len(candidates) // 2]))
        return mean, np.full(len(mean), self._deviation(work, pool, framework, middle)[0])

    def evidence(
        self, work: Work, pool: Pool, framework: Framework | None, one: Candidates, most: int = 3
    ) -> tuple[Evidence, ...]:
        """Return where the prediction of one candidate stands among the measurements, and the nearest of them."""
        features = candidate_features(work, pool, one, framework, self._site)
        near = nearest_observations(self._fit, features, most)
        return (standing(self._fit.observations, pool.accelerator, self._site), *near)

    def _deviation(self, work: Work, pool: Pool, framework: Framework | None, candidates: Candidates) -> Floats:
        features = candidate_features(work, pool, candidates, framework, self._site)
        _, variance = self._fit.posterior.predict(features)
        deviation: Floats = np.sqrt(variance) * scale_of(self._fit.scales, pool.accelerator.vendor)
        return deviation

    def _call(self, work: Work, pool: Pool, framework: Framework | None) -> Additive:
        labels = {**call_labels(work, pool.accelerator, framework), "site": self._site, "source": NOBODY}
        sizes = call_sizes(work)
        key = (*labels.values(), *sizes.values())
        if key not in self._calls:
            if len(self._calls) >= _CALLS:
                self._calls.clear()
            self._calls[key] = Additive(self._fit.posterior, labels, sizes)
        return self._calls[key]


def scale_of(scales: Mapping[str, float], vendor: str) -> float:
    """Return by how much intervals are widened; for a vendor with few rows or none, at least as for all together."""
    return scales.get(vendor) or max(scales[""], 1.0)


def calibration(user_rows: Iterable[TrainingMeasurement] = (), catalog: Catalog | None = None) -> Calibration:
    """Return the packaged calibration, sharpened by the user's own measurements.

    The user's rows share effects of their own (of his site, on a chip, with a framework), and predictions are for his
    site: on his hardware they weigh most, and few rows move little elsewhere.
    """
    rows = tuple(user_rows)
    if not rows:
        return _packaged()
    settings, _ = translated(rows, catalog or Catalog.load())
    settings = [setting for setting in settings if setting.speed is not None]
    if not settings:
        return _packaged()
    own, packaged = observe(settings, site=SITE), packaged_fit()
    fit = refit(packaged, packaged.observations.beside(own))
    return Calibration(replace(fit, sources={**fit.sources, **_sources(rows)}), SITE)


def local_calibration(user_rows: Iterable[TrainingMeasurement], pool: Pool, variance: float) -> Calibration | None:
    """Return what jobs that ran on a pool's own devices say of others there; None where none states its speed.

    The physical estimate of such devices rests on their own timings, so published rows say nothing of its error. How
    alike jobs are is taken from the packaged fit, how far off the estimate may be from ``variance`` (of log step time).

    Args:
        user_rows: finished jobs.
        pool: the devices that they ran on.
        variance: of one more measurement, where nothing has run yet.
    """
    rows = [row for row in user_rows if row.run is not None]
    found = [run_setting(row, row.run, pool) for row in rows if row.run is not None]
    settings = [setting for setting in found if setting is not None]
    if not settings:
        return None
    own, fit = observe(settings, site=SITE), packaged_fit()
    prior = fit.prior.scaled(variance / fit.prior.total)
    posterior = condition(prior.scaled(surprise(prior, own.features, own.residuals)), own.features, own.residuals)
    fit = Fit(observations=own, posterior=posterior, scales={"": 1.0}, sources=_sources(rows))
    return Calibration(fit, SITE)


def _sources(rows: Iterable[TrainingMeasurement]) -> dict[str, str]:
    return {row.source_id: row.source for row in rows}


@cache
def _packaged() -> Calibration:
    return Calibration(packaged_fit())


def refit(fit: Fit, observations: Observations) -> Fit:
    """Return the fit with the same variances and other observations."""
    posterior = condition(fit.prior, observations.features, observations.residuals)
    return Fit(observations=observations, posterior=posterior, scales=fit.scales, sources=fit.sources)
