"""What the user's own measurements add to the packaged ones: they weigh most on his hardware."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mofang.catalog.knowledge import Catalog
from mofang.domain.hardware import CPU, Pool
from mofang.domain.measurement import ServingMeasurement, TrainingMeasurement
from mofang.matching.calibration import NORMAL_90, Calibration, calibration, local_calibration
from mofang.matching.coefficients import coefficients
from mofang.matching.workers import is_measured

if TYPE_CHECKING:
    from mofang.matching.serving.own import OwnServices

__all__ = ["Experience", "experience_of"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Experience:
    """Calibrations that know the user's own measurements.

    ``training`` is for hardware that is described, ``places`` for devices of his fleet whose own operators were timed,
    by cluster and accelerator: there only jobs that ran on them count. ``services`` is None where he measured none.
    """

    training: Calibration
    places: Mapping[tuple[str, str], Calibration]
    services: OwnServices | None = None

    def at(self, pool: Pool) -> Calibration | None:
        """Return what is known of devices whose own operators were timed; None where no job has run on them yet."""
        return self.places.get((pool.cluster, pool.accelerator.name))


def experience_of(
    training: Iterable[TrainingMeasurement],
    serving: Sequence[ServingMeasurement],
    pools: Iterable[Pool],
    catalog: Catalog,
) -> Experience | None:
    """Return what own measurements say; None where there are none.

    Args:
        training: what the user measured and imported, and what his finished jobs measured.
        serving: what he measured of services.
        pools: the devices of his fleet.
        catalog: where chips are looked up.
    """
    rows = tuple(training)
    if not rows and not serving:
        return None
    places: dict[tuple[str, str], Calibration] = {}
    for pool in pools:
        here = [row for row in rows if _ran_on(row, pool)]
        if here and (pool.is_cpu or is_measured(pool)):
            found = local_calibration(here, pool, _variance(pool))
            places |= {} if found is None else {(pool.cluster, pool.accelerator.name): found}
    services = None
    if serving:
        from mofang.matching.serving.own import own_services  # noqa: PLC0415 - its tables only where there are some

        services = own_services(serving, catalog)
    chips = [row for row in rows if row.accelerator != CPU]  # cores differ too much from host to host
    return Experience(training=calibration(chips, catalog), places=places, services=services)


def _ran_on(row: TrainingMeasurement, pool: Pool) -> bool:
    return row.run is not None and row.run.cluster == pool.cluster and row.accelerator == pool.accelerator.name


def _variance(pool: Pool) -> float:
    """Return the variance of log step time that the interval of a job nobody has run stands for."""
    low, high = coefficients().interval["measured" if is_measured(pool) else "unknown"]
    return ((math.log(high) - math.log(low)) / (2.0 * NORMAL_90)) ** 2
