"""What the user's own measurements add to predictions: imported rows and finished jobs, read again when they change."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from mofang.control.pools import fleet_pools
from mofang.store import measurements
from mofang.store.store import Store

if TYPE_CHECKING:
    from mofang.catalog.knowledge import Catalog
    from mofang.domain.hardware import Node, Pool
    from mofang.domain.measurement import ServingMeasurement, TrainingMeasurement
    from mofang.matching.experience import Experience

__all__ = ["OwnMeasurements"]

_MOST_ROWS = 1000  # the newest of each kind count: what they say is solved for in a time that grows with their cube


class OwnMeasurements:
    """The user's measurements, as matching takes them. Any thread may ask.

    Args:
        store: where finished jobs leave what they measured.
        home: Mofang's folder; ``catalog/measurements/`` in it holds what was imported.
    """

    def __init__(self, store: Store, home: Path) -> None:
        self._store = store
        self._folder = home / "catalog"
        self._lock = Lock()
        self._state: object = None
        self._experience: Experience | None = None

    def experience(self, nodes: Iterable[Node], catalog: Catalog) -> Experience | None:
        """Return what they say of the user's hardware; None where there are none.

        Args:
            nodes: his fleet.
            catalog: with his rows.

        Raises:
            CatalogError: a file of his measurements cannot be read.
        """
        imported, newest = _files(self._folder / "measurements"), self._store.read(measurements.newest)
        if not imported and newest is None:
            return None
        pools = fleet_pools(nodes, catalog)
        state = (imported, _files(self._folder), newest, pools)
        with self._lock:
            if state != self._state:
                self._experience = self._learn(pools, catalog)
                self._state = state
            return self._experience

    def _learn(self, pools: tuple[Pool, ...], catalog: Catalog) -> Experience | None:
        from mofang.matching.experience import experience_of  # noqa: PLC0415 - only where there is something to learn

        return experience_of(self._training(catalog), self._serving(catalog), pools, catalog)

    def _training(self, catalog: Catalog) -> tuple[TrainingMeasurement, ...]:
        from mofang.catalog.measurements import from_jobs, load_training  # noqa: PLC0415

        imported = load_training((), catalog, user_dir=self._folder).rows
        jobs = self._store.read(measurements.rows, _MOST_ROWS)
        return (*imported[-_MOST_ROWS:], *from_jobs(jobs))

    def _serving(self, catalog: Catalog) -> tuple[ServingMeasurement, ...]:
        from mofang.catalog.measurements import load_serving  # noqa: PLC0415

        return load_serving((), catalog, user_dir=self._folder).rows[-_MOST_ROWS:]


def _files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what tells whether a file of a folder was written since: name, time and size."""
    if not folder.is_dir():
        return ()
    found = [(file, file.stat()) for file in sorted(folder.iterdir()) if file.is_file() and file.name[0] != "."]
    return tuple((file.name, status.st_mtime_ns, status.st_size) for file, status in found)
