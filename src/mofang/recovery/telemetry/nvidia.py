"""NVIDIA devices, through NVML: heat, power, clocks, what slows them down, and every counter of errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from mofang.recovery.telemetry.probe import Place, Probe

__all__ = ["NvidiaProbe", "open_nvidia"]

_SELDOM = 10  # samples between two looks at what is slow to read and changes seldom
_LINKS = 36  # the most NVLinks of a device so far
_LINK_COUNTERS = (0, 1, 2)  # replays, recoveries, and flits with a wrong sum
_CURRENT_BOOT = 0  # NVML_VOLATILE_ECC
# Hardware slowdown, thermal slowdown (software, hardware) and power brake; not the caps that are daily business.
_SLOWED = 0x8 | 0x20 | 0x40 | 0x80


def open_nvidia(place: Place) -> Probe | None:
    """Return a probe of a node's devices; None where they are of another kind or NVML is not there."""
    if place.accelerator == "cpu" or not place.devices:
        return None
    try:
        import pynvml  # noqa: PLC0415 - an optional library, loaded only where there are devices
    except ImportError:
        return None
    return NvidiaProbe(pynvml, place.devices)


class NvidiaProbe:
    """Columns ``device.N.*``; a device that does not answer is missing from the sample.

    Args:
        nvml: the library, which is started at the first sample: on a sick node that takes long.
        devices: their indices.
    """

    def __init__(self, nvml: Any, devices: tuple[int, ...]) -> None:
        self._nvml, self._devices = nvml, devices
        self._handles: dict[int, Any] | None = None
        self._count = 0
        self._seldom: dict[str, float] = {}

    def sample(self) -> Mapping[str, float]:
        """Return what every device does now."""
        if self._handles is None and not self._open():
            return {}
        found: dict[str, float] = {}
        for index, handle in (self._handles or {}).items():
            found |= self._read(index, handle, _OFTEN)
            if self._count % _SELDOM == 0:
                self._seldom |= self._read(index, handle, _RARELY)
        self._count += 1
        return {**found, **self._seldom}

    def _open(self) -> bool:
        try:
            self._nvml.nvmlInit()
            self._handles = {index: self._nvml.nvmlDeviceGetHandleByIndex(index) for index in self._devices}
        except self._nvml.NVMLError:
            self._handles = None
        return self._handles is not None

    def _read(self, index: int, handle: Any, readers: Mapping[str, Callable[[Any, Any], float]]) -> dict[str, float]:
        found = {}
        for name, read in readers.items():
            with suppress(self._nvml.NVMLError):  # what this kind of device does not have
                found[f"device.{index}.{name}"] = float(read(self._nvml, handle))
        return found


def _slowed(nvml: Any, handle: Any) -> float:
    return float(bool(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) & _SLOWED))


def _errors(kind: int) -> Callable[[Any, Any], float]:
    def read(nvml: Any, handle: Any) -> float:
        return float(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, _CURRENT_BOOT))

    return read


def _remapped(nvml: Any, handle: Any) -> float:
    correctable, uncorrectable, *_ = nvml.nvmlDeviceGetRemappedRows(handle)
    return float(correctable + uncorrectable)


def _retired(nvml: Any, handle: Any) -> float:
    return float(sum(len(nvml.nvmlDeviceGetRetiredPages(handle, cause)) for cause in (0, 1)))


def _link_errors(nvml: Any, handle: Any) -> float:
    total = 0.0
    for link in range(_LINKS):
        try:
            if nvml.nvmlDeviceGetNvLinkState(handle, link):
                total += sum(nvml.nvmlDeviceGetNvLinkErrorCounter(handle, link, one) for one in _LINK_COUNTERS)
        except nvml.NVMLError:
            break  # there are no more
    return total


_OFTEN: Mapping[str, Callable[[Any, Any], float]] = {
    "temperature": lambda nvml, handle: nvml.nvmlDeviceGetTemperature(handle, 0),
    "power": lambda nvml, handle: nvml.nvmlDeviceGetPowerUsage(handle) / 1000.0,
    "clock": lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, 1),
    "slowed": _slowed,
    "ecc_corrected": _errors(0),
    "ecc_uncorrected": _errors(1),
    "pcie_replays": lambda nvml, handle: nvml.nvmlDeviceGetPcieReplayCounter(handle),
}
_RARELY: Mapping[str, Callable[[Any, Any], float]] = {
    "temperature_limit": lambda nvml, handle: nvml.nvmlDeviceGetTemperatureThreshold(handle, 1),
    "rows_remapped": _remapped,
    "pages_retired": _retired,
    "link_errors": _link_errors,
}
