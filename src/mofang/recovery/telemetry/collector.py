"""The collector of a node: every second one sample of everything, appended to the attempt's time series."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mofang.clock import Clock
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.telemetry.detached import Detached
from mofang.recovery.telemetry.probe import Place, Probe, probes_of
from mofang.recovery.telemetry.workers import WorkersProbe
from mofang.recovery.telemetry.writer import SeriesWriter

__all__ = ["Collector"]

PERIOD_S = 1.0
_MAY_HANG = ("nvidia",)  # drivers; what the kernel's own files say is there at once


class Collector:
    """Samples when it is told that time has passed; it has no loop of its own.

    Args:
        directory: of the attempt.
        node: the index of this node.
        place: where probes look.
        clock: the time.
        probes: by name; None: all that have something to measure here.
        period_s: between samples.
    """

    def __init__(
        self,
        directory: AttemptDir,
        node: int,
        place: Place,
        clock: Clock,
        *,
        probes: Mapping[str, Probe] | None = None,
        period_s: float = PERIOD_S,
    ) -> None:
        known = probes_of(place) if probes is None else probes
        self._probes = [Detached(name, probe, clock) if name in _MAY_HANG else probe for name, probe in known.items()]
        self._clock, self._period, self._due = clock, period_s, 0.0
        self.workers = WorkersProbe(directory, place.proc)
        self._writer = SeriesWriter(directory.telemetry(node))

    @property
    def path(self) -> Path:
        """Where the time series is."""
        return self._writer.path

    def tick(self) -> tuple[float, Mapping[str, float]] | None:
        """Take a sample if one is due; return its time, in seconds since the epoch, and its values."""
        moment = self._clock.monotonic()
        if moment < self._due:
            return None
        self._due = moment + self._period
        now = self._clock.now()
        sample: dict[str, float] = dict(self.workers.sample(now))
        for probe in self._probes:
            sample |= probe.sample()
        self._writer.append(now, sample)
        return now, sample

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
