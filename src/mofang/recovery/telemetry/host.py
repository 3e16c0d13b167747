"""The host itself: processors, memory, pressure, clock, heat and memory errors, as the kernel's files show them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from mofang.recovery.telemetry.probe import Place
from mofang.recovery.telemetry.reading import Rate, number_in, text_in

__all__ = ["HostProbe"]

_CORES_LOOKED_AT = 8  # for the clock; all of them would cost a file each
_HOTTEST = 150.0  # degrees Celsius; a sensor that reads more is broken


class HostProbe:
    """Columns ``cpu.*``, ``memory.*``, ``swap.*``, ``pressure.*``, ``heat.host`` and ``edac.*``.

    ``cpu.busy`` and ``pressure.*`` are parts of the time since the last sample, the latter with some task waiting
    (Documentation/accounting/psi.rst); bytes, MHz and degrees Celsius are as they are.
    """

    def __init__(self, place: Place) -> None:
        self._proc, self._sys = place.proc, place.sys
        self._busy = Rate()
        self._pressure = {name: Rate() for name in ("cpu", "memory", "io")}
        cores = sorted(self._sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._clocks = cores[:: max(1, len(cores) // _CORES_LOOKED_AT)]
        self._heat = [
            *self._sys.glob("class/thermal/thermal_zone*/temp"),
            *self._sys.glob("class/hwmon/hwmon*/temp*_input"),
        ]
        self._edac = {
            name: list(self._sys.glob(f"devices/system/edac/mc/mc*/{file}"))
            for name, file in (("corrected", "ce_count"), ("uncorrected", "ue_count"))
        }

    def sample(self) -> Mapping[str, float]:
        """Return what the host does now."""
        found = {**self._processors(), **self._memory()}
        for name, files in self._edac.items():
            if files:
                found[f"edac.{name}"] = sum(_known(files))
        clocks, heat = _known(self._clocks), [one / 1000.0 for one in _known(self._heat)]
        if clocks:
            found["cpu.clock"] = sum(clocks) / len(clocks) / 1000.0
        sane = [one for one in heat if 0.0 < one < _HOTTEST]
        return {**found, "heat.host": max(sane)} if sane else found

    def _processors(self) -> dict[str, float]:
        found = {}
        first, *_ = text_in(self._proc / "stat").splitlines() or [""]
        ticks = [float(word) for word in first.split()[1:9]]
        grown = self._busy.step((sum(ticks) - ticks[3] - ticks[4], sum(ticks))) if len(ticks) == 8 else None
        if grown is not None and grown[1] > 0:
            found["cpu.busy"] = grown[0] / grown[1]
        load = text_in(self._proc / "loadavg").split()
        if load:
            found["cpu.load"] = float(load[0]) / (os.cpu_count() or 1)
        uptime = text_in(self._proc / "uptime").split()
        for name, rate in self._pressure.items():
            total = _pressure(self._proc / "pressure" / name)
            if total is None or not uptime:
                continue
            step = rate.step((total / 1e6, float(uptime[0])))
            if step is not None and step[1] > 0:
                found[f"pressure.{name}"] = min(step[0] / step[1], 1.0)
        return found

    def _memory(self) -> dict[str, float]:
        rows = (line.split() for line in text_in(self._proc / "meminfo").splitlines())
        known = {words[0]: 1024.0 * float(words[1]) for words in rows if len(words) > 1}
        if "MemAvailable:" not in known:
            return {}
        total, available = known["MemTotal:"], known["MemAvailable:"]
        limit, used = (number_in(self._sys / "fs/cgroup" / name) for name in ("memory.max", "memory.current"))
        if limit is not None and used is not None and limit < total:
            total, available = limit, min(available, max(limit - used, 0.0))
        swap = known.get("SwapTotal:", 0.0) - known.get("SwapFree:", 0.0)
        return {"memory.available": available, "memory.total": total, "swap.used": swap}


def _known(files: Iterable[Path]) -> list[float]:
    return [value for value in map(number_in, files) if value is not None]


def _pressure(path: Path) -> float | None:
    """Return for how many microseconds some task has waited since the start (the average over 10 s comes too late)."""
    line, *_ = text_in(path).splitlines() or [""]
    name, _, total = line.rpartition("total=")
    return float(total) if name.startswith("some") and total.isdigit() else None
