"""What probing a host measured: the rates that matching reasons with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Collective", "CollectiveRate", "HostRates", "Operator", "OperatorRate", "Phase"]


class Operator(StrEnum):
    """The operators a training step is made of; the comment names the sizes in ``OperatorRate.shape``."""

    LINEAR = "linear"  # rows m, outputs n, inputs k
    ATTENTION = "attention"  # causal: batch x heads, sequence, head width
    NORM = "norm"  # rows, width
    ROPE = "rope"  # rows, width of all query and key heads
    GATED = "gated"  # SwiGLU's silu(gate) x up: rows, width
    ADD = "add"  # rows, width
    CROSS_ENTROPY = "cross-entropy"  # rows, vocabulary
    EMBEDDING = "embedding"  # rows, vocabulary, width
    CAST = "cast"  # fp32 to the matrix products' precision, and the gradient back: elements
    ADAMW = "adamw"  # parameters
    CLIP = "clip"  # gradient norm, scaling and clearing: parameters


class Phase(StrEnum):
    """Which pass of a training step."""

    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"


class Collective(StrEnum):
    """The collectives of data parallelism."""

    ALL_REDUCE = "all-reduce"
    ALL_GATHER = "all-gather"
    REDUCE_SCATTER = "reduce-scatter"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRate:
    """Seconds that one operator took on each of ``workers`` workers running it at once with ``threads`` threads each.

    ``spread`` is the interquartile range of the repeats over their median.
    """

    device: str  # "cpu" or the accelerator's name
    dtype: str
    workers: int
    threads: int
    operator: Operator
    phase: Phase
    shape: tuple[int, ...]
    seconds: float
    spread: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRate:
    """A collective over ``workers`` ranks: seconds = latency_s + bytes / bandwidth.

    Bytes are those of the whole tensor: what is reduced, what every rank has gathered, what is reduced and scattered.
    """

    device: str
    operation: Collective
    workers: int
    latency_s: float
    bandwidth: float
    hosts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRates:
    """Everything one probe of one host measured. ``facts`` is what was found there, for people (versions, flags)."""

    host: str
    measured_at: float  # seconds since the epoch
    torch_version: str
    operators: tuple[OperatorRate, ...] = ()
    collectives: tuple[CollectiveRate, ...] = ()
    dispatch_s: float = 0.0  # seconds to launch one small operator
    backward_dispatch_s: float = 0.0  # seconds autograd adds for one small operator, forward and backward
    worker_memory_bytes: int = 0  # resident memory of a worker that holds no model yet
    disk_write: float = 0.0  # bytes/s, synced
    seconds: float = 0.0  # how long the probe took
    facts: Mapping[str, str] = field(default_factory=dict)
