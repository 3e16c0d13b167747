"""What a prediction rests on, in words: how much was measured on such chips, and what was measured nearest to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mofang.domain.estimate import Evidence
from mofang.domain.hardware import Accelerator
from mofang.matching.calibration.features import NOBODY, Features
from mofang.matching.calibration.observations import Observations
from mofang.matching.calibration.process import Kernels, Prior
from mofang.matching.calibration.stored import Fit

__all__ = ["distances", "nearest_observations", "standing"]

Floats = NDArray[np.float64]

_WHO = {"site", "source"}  # who measured says nothing of how alike two jobs are


def standing(observations: Observations, chip: Accelerator, site: str = NOBODY) -> Evidence:
    """Return the sentence that says how well the chip is known, and how much of that ``site`` measured itself."""
    labels, total = observations.features.labels, len(observations)
    on_chip = labels["chip"] == chip.name
    same, relatives = int(on_chip.sum()), int((labels["vendor"] == chip.vendor).sum())
    own = int((on_chip & (labels["site"] == site)).sum()) if site else 0
    if own == total:
        jobs = f"{own} job{'' if own == 1 else 's'}"
        return Evidence(what=f"calibrated on {jobs} of yours that ran on these devices", source="measurements")
    if same:
        yours = f", {own} of these {'is' if own == 1 else 'are'} yours" if own else ""
        return Evidence(
            what=f"calibrated on {total} measurements, {same} of them on {chip.name}{yours}", source="measurements"
        )
    near = f"{relatives} of them on other {chip.vendor} chips" if relatives else f"none of them of {chip.vendor}"
    return Evidence(
        what=f"no measurement of {chip.name} is known: its data sheet and {total} measurements of other chips "
        f"({near}) are all that this prediction rests on, so its interval is wide",
        source="data sheet",
    )


def nearest_observations(fit: Fit, one: Features, most: int) -> tuple[Evidence, ...]:
    """Return the measurements nearest to a job, the nearest first; one of each source, as they repeat themselves."""
    found = distances(fit.prior, fit.observations.features, one)
    chosen: list[Evidence] = []
    seen: set[str] = set()
    for row in np.argsort(found, kind="stable"):
        fact = fit.observations.facts[row]
        if fact.source_id in seen:
            continue
        seen.add(fact.source_id)
        where = fit.sources.get(fact.source_id, "")
        source = f"{fact.source_id}: {where}" if where else fact.source_id
        value, distance = fact.tokens_per_s_per_device, float(found[row])
        chosen.append(Evidence(what=fact.what, source=source, value=value, distance=distance))
        if len(chosen) == most:
            break
    return tuple(chosen)


def distances(prior: Prior, features: Features, one: Features) -> Floats:
    """Return how far every row is from one job: sqrt(2 (1 - correlation of their effects)); 0 is the same job."""
    terms = {term: variance for term, variance in prior.variances.items() if not _WHO & set(term.labels)}
    rest = Prior(variances=terms, shared=prior.shared, noise=0.0)
    correlation = Kernels(features, one).total(rest)[:, 0] / rest.total
    found: Floats = np.sqrt(np.maximum(2.0 * (1.0 - correlation), 0.0))
    return found
