"""What a host is: processor, memory, shared memory, disk, versions; and how fast its disk takes synced writes."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

import psutil
import torch

from mofang.clock import Clock

__all__ = ["cpu_settings", "disk_write", "facts", "usable_cores", "worker_memory"]

_CHUNK, _CHUNKS = 8 * 2**20, 8


def usable_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_settings(cores: int) -> list[tuple[int, int]]:
    """Return (workers, threads) to measure: one core, all cores in one worker, all cores in several workers."""
    workers = min(cores, 8)
    wanted = {(1, 1), (1, cores), (workers, cores // workers), (2, cores // 2) if cores > 1 else (1, 1)}
    return sorted(wanted)


def worker_memory() -> int:
    """Return the resident bytes of this process, which has loaded torch and no model."""
    return int(psutil.Process().memory_info().rss)


def disk_write(directory: Path, clock: Clock) -> float:
    """Return bytes/s of writing and syncing a file in ``directory``; 0 where it cannot be written."""
    data = os.urandom(_CHUNK)
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            start = clock.monotonic()
            for _ in range(_CHUNKS):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            return _CHUNK * _CHUNKS / (clock.monotonic() - start)
    except OSError:
        return 0.0


def _flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return set(line.partition(":")[2].split())


def facts(directory: Path) -> dict[str, str]:
    """Return what was found, as text by name; sizes are bytes."""
    flags = _flags()
    shm = Path("/dev/shm")  # noqa: S108 - looked at, not written
    found = {
        "cores": str(usable_cores()),
        "memory_bytes": str(psutil.virtual_memory().total),
        "disk_free_bytes": str(psutil.disk_usage(str(directory)).free),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "bf16_hardware": str(bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})).lower(),
        "gpus": "; ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
    }
    if shm.is_dir():
        found["shm_bytes"] = str(psutil.disk_usage(str(shm)).total)
    return found
