"""What a plan is predicted to do, how sure that is, and from what it follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Estimate", "Evidence", "Interval", "ServiceEstimate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The range that is to hold 90 % of outcomes."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One thing the estimate rests on: a measured rate, a catalogue figure, an assumption, a measurement nearby.

    ``value`` is what was measured there (tokens/s a device), ``distance`` how far it is from the plan: 0 is the same.
    """

    what: str
    source: str
    value: float | None = None
    distance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A prediction. Seconds, bytes, joules; ``tokens_per_s`` is for the whole job; ``mfu`` is a fraction of peak.

    ``time`` splits ``step_time_s`` (compute, attention, memory, recompute, the exposed communication of each kind of
    parallelism, waiting in the pipeline, optimizer, overhead: ``matching.schedule.PARTS``), ``memory`` splits
    ``memory_bytes`` of the fullest device or, for cores, of one worker.
    """

    step_time_s: float
    step_time_90: Interval
    tokens_per_s: float
    mfu: float
    memory_bytes: float
    peak_flops: float  # of all devices together in the plan's precision: what ``mfu`` is measured against
    total_time_s: float
    time: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    energy_j: float | None = None  # None: unknown
    cost: float | None = None  # None: unknown, never zero
    evidence: tuple[Evidence, ...] = ()
    memory_limit_bytes: float | None = (
        None  # what a plan may fill of a device; None: devices have no memory of their own
    )
    tight: bool = False  # the memory model errs by more than is left
    unmeasured: tuple[str, ...] = ()  # what of the plan no measurement has: "offload optimizer", "pp 64"
    goodput: float = 1.0  # part of the total time that goes into steps that count: faults, restarts, checkpoints, data


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEstimate:
    """A service under its traffic. Seconds, tokens/s and requests/s of the whole service, bytes of the fullest device.

    ``ttft_s`` and ``tpot_s`` are means under load (queueing included), the ``_tail_s`` ones lie at the percentile that
    the scenario names; ``time`` splits one decode iteration, ``prefill`` the prompt of mean length.
    """

    ttft_s: float
    ttft_tail_s: float
    tpot_s: float
    tpot_tail_s: float
    tokens_per_s: float  # output tokens
    requests_per_s: float
    max_requests_per_s: float  # where it saturates
    concurrency: float  # mean requests in flight
    kv_tokens: float  # tokens that the key-value cache of one replica holds
    memory_bytes: float
    tokens_per_s_90: Interval
    tpot_90: Interval
    ttft_90: Interval
    time: Mapping[str, float] = field(default_factory=dict)
    prefill: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    kept: float | None = None  # probability that the service level is kept; None: there is none
    cost_per_million_tokens: float | None = None
    energy_j_per_token: float | None = None
    evidence: tuple[Evidence, ...] = ()
