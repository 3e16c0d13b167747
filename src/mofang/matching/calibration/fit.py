"""``python -m mofang.matching.calibration.fit``: learn the packaged calibration anew from the packaged measurements."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import load_training
from mofang.domain.measurement import TrainingMeasurement
from mofang.matching.calibration.learning import learn, leave_out, scales
from mofang.matching.calibration.observations import Observations, observe, translated
from mofang.matching.calibration.process import condition
from mofang.matching.calibration.stored import Fit, write_fit
from mofang.matching.calibration.terms import FLOORS, SHARED, SITE_TERMS, TERMS

__all__ = ["fit_observations", "main"]


def fit_observations(observations: Observations, sources: dict[str, str]) -> Fit:
    """Return the fit of observations: variances, posterior, and intervals widened to hold what they should."""
    features, residuals = observations.features, observations.residuals
    prior = learn(TERMS, features, residuals, floors=FLOORS, shared=SHARED, fixed=SITE_TERMS)
    mean, variance = leave_out(prior, features, residuals, features.labels["source"])
    return Fit(
        observations=observations,
        posterior=condition(prior, features, residuals),
        scales=scales(residuals - mean, variance, features.labels["vendor"]),
        sources=sources,
    )


def packaged_observations(catalog: Catalog) -> tuple[Observations, tuple[TrainingMeasurement, ...]]:
    """Return the packaged measurements beside what physics predicts, and the rows they are from."""
    rows = load_training(None, catalog).rows
    settings, _ = translated(rows, catalog)
    found = observe(settings)
    return found.where(np.isfinite(found.residuals)), rows


def main() -> int:
    """Fit and write the two packaged files; return the exit code."""
    observations, rows = packaged_observations(Catalog.load())
    kept = set(observations.features.labels["source"])
    sources = {row.source_id: row.source for row in rows if row.source_id in kept}
    fit = fit_observations(observations, sources)
    write_fit(fit, Path(__file__).parent / "data")
    sys.stdout.write(f"{len(observations)} observations of {len(sources)} sources, ")
    sys.stdout.write(f"{len(fit.prior.variances)} effects, noise {np.sqrt(fit.prior.noise):.3f}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
