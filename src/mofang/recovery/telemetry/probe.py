"""What a probe is, and the table of those that there are.

A probe for another kind of device (AMD, Ascend) is one class with ``sample``, and one row of ``PROBES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mofang.recovery.kernel_log import KernelLog

__all__ = ["PROBES", "Place", "Probe", "probes_of"]


class Probe(Protocol):
    """Something that can be measured again and again."""

    def sample(self) -> Mapping[str, float]:
        """Return what is measured now, by column; what cannot be read is left out. It never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where probes look: a node's devices, and its kernel's files (elsewhere in tests)."""

    accelerator: str = "cpu"
    devices: tuple[int, ...] = ()
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    kernel_log: KernelLog | None = None  # None: it is not looked at


def _host(place: Place) -> Probe:
    from mofang.recovery.telemetry.host import HostProbe  # noqa: PLC0415 - probes are loaded where they serve

    return HostProbe(place)


def _traffic(place: Place) -> Probe:
    from mofang.recovery.telemetry.traffic import TrafficProbe  # noqa: PLC0415 - as above

    return TrafficProbe(place)


def _kernel(place: Place) -> Probe | None:
    from mofang.recovery.telemetry.kernel import KernelLogProbe  # noqa: PLC0415 - as above

    return None if place.kernel_log is None else KernelLogProbe(place.kernel_log)


def _nvidia(place: Place) -> Probe | None:
    from mofang.recovery.telemetry.nvidia import open_nvidia  # noqa: PLC0415 - as above

    return open_nvidia(place)


PROBES: dict[str, Callable[[Place], Probe | None]] = {
    "host": _host,
    "traffic": _traffic,
    "kernel": _kernel,
    "nvidia": _nvidia,
}


def probes_of(place: Place) -> dict[str, Probe]:
    """Return the probes that have something to measure in a place, by name."""
    found = {name: make(place) for name, make in PROBES.items()}
    return {name: probe for name, probe in found.items() if probe is not None}
