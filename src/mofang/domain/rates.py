"""What probing a host measured: the rates that matching reasons with."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CollectiveRate", "HostRates", "MatmulRate", "StreamRate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulRate:
    """A matrix product (m x k) @ (k x n) on one worker with this many threads: FLOP/s reached.

    ``workers`` of them ran at the same time, each with ``threads`` threads.
    """

    device: str  # "cpu" or the accelerator's name
    dtype: str
    workers: int
    threads: int
    m: int
    n: int
    k: int
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRate:
    """Bytes/s one worker reads and writes in a large elementwise pass, ``workers`` at the same time."""

    device: str
    workers: int
    threads: int
    bandwidth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRate:
    """All-reduce over this many workers: seconds = latency_s + bytes / bandwidth."""

    device: str
    workers: int
    latency_s: float
    bandwidth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRates:
    """Everything one probe of one host measured."""

    host: str
    measured_at: float  # seconds since the epoch
    torch_version: str
    matmul: tuple[MatmulRate, ...] = ()
    stream: tuple[StreamRate, ...] = ()
    collective: tuple[CollectiveRate, ...] = ()
    dispatch_s: float = 0.0  # seconds to launch one small operation
    disk_write: float = 0.0  # bytes/s, synced
