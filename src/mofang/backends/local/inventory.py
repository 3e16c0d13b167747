"""What a host has: ``python -P -m mofang.backends.local.inventory FOLDER`` prints it as one line of JSON.

It runs on the host itself, behind its prefix; ``FOLDER`` is the one whose disk counts.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from mofang.domain.hardware import CPU, Device

__all__ = ["Inventory", "inventory_from_text", "take_inventory"]

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Devices, cores and bytes of one host, as far as this process may use them."""

    host: str
    devices: tuple[Device, ...]
    cores: int
    memory_bytes: int
    disk_free_bytes: int
    problems: tuple[str, ...] = ()  # what could not be read


def take_inventory(folder: Path) -> Inventory:
    """Look at this machine."""
    cores = _usable_cores()
    chips, problems = _chips()
    return Inventory(
        host=socket.gethostname(),
        devices=tuple(Device(index=core, accelerator=CPU) for core in cores) + chips,
        cores=len(cores),
        memory_bytes=_memory_bytes(),
        disk_free_bytes=_disk_free(folder),
        problems=problems,
    )


def inventory_from_text(text: str) -> Inventory:
    """Return what another host printed.

    Raises:
        ValueError: it is not an inventory.
    """
    try:
        record: dict[str, Any] = json.loads(text)
        devices = tuple(Device(**device) for device in record.pop("devices"))
        return Inventory(**{**record, "devices": devices, "problems": tuple(record["problems"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an inventory: {error}") from error


def _usable_cores() -> list[int]:
    """Return the cores that this process may run on, no more of them than a cgroup's quota is worth."""
    cores = sorted(os.sched_getaffinity(0))
    quota, _, period = _cgroup_text("cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = cores[: max(1, math.floor(int(quota) / int(period)))]
    return cores


def _memory_bytes() -> int:
    total = psutil.virtual_memory().total
    limit = _cgroup_text("memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def _cgroup_text(name: str) -> str:
    """Return a limit of this process's cgroup (v2), or nothing."""
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
        return (_CGROUP / own / name).read_text().strip()
    except OSError:
        return ""


def _disk_free(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return psutil.disk_usage(str(folder)).free
    except OSError:
        return 0


def _chips() -> tuple[tuple[Device, ...], tuple[str, ...]]:
    """Return the NVIDIA GPUs; none where there is no driver. One that does not answer is listed as unhealthy."""
    try:
        import pynvml  # noqa: PLC0415 - an optional library
    except ImportError:
        return (), ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return (), ()  # no driver, hence no GPU
    devices: list[Device] = []
    problems: list[str] = []
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                devices.append(_chip(pynvml, index))
            except pynvml.NVMLError as error:
                devices.append(Device(index=index, accelerator="unknown", healthy=False))
                problems.append(f"GPU {index}: {error}")
    except pynvml.NVMLError as error:
        problems.append(f"GPUs cannot be counted: {error}")
    finally:
        pynvml.nvmlShutdown()
    return tuple(devices), tuple(problems)


def _chip(nvml: Any, index: int) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return Device(
        index=index,
        accelerator=_text(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


if __name__ == "__main__":
    print(json.dumps(asdict(take_inventory(Path(sys.argv[1])))))  # noqa: T201 - read by the backend
