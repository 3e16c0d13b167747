"""Why a plan was rejected, a job waits, or an attempt ended: one closed list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Reason", "Rejection", "precedence"]


class Reason(StrEnum):
    """Every reason Mofang can give, in order of precedence: when several hold, the first is shown."""

    # The request itself
    NO_SUCH_DEVICE = "no-such-device"  # no cluster has this kind of device
    TOO_FEW_DEVICES = "too-few-devices"  # fewer exist than asked for
    PARALLELISM = "parallelism"  # degrees do not multiply to the world size, or do not divide the model
    BATCH = "batch"  # the global batch is not micro-batch x accumulation x data parallel size
    PRECISION = "precision"  # the device cannot compute in this precision
    MEMORY = "memory"  # does not fit in device or host memory
    FRAMEWORK = "framework"  # no framework that runs on these devices can do it
    SERVICE_LEVEL = "service-level"  # would answer later than the service level allows
    DEADLINE = "deadline"  # would end after its deadline
    BUDGET = "budget"  # would cost more than its budget
    WORSE = "worse"  # feasible, but other plans are better for the goal
    # Waiting
    WAITING_FOR_DEVICES = "waiting-for-devices"  # the devices exist and are in use
    RESERVED = "reserved"  # devices are free but held for an older job
    NODE_DOWN = "node-down"  # the only fitting nodes are down or drained
    BACKOFF = "backoff"  # waits before its next attempt
    # Ends
    COMPLETED = "completed"
    STOPPED_BY_USER = "stopped-by-user"
    REPEATED_FAILURE = "repeated-failure"  # failed the same way at the same step three times
    WORKER_FAILED = "worker-failed"  # a worker exited with an error
    WORKER_KILLED = "worker-killed"  # a worker was killed by a signal
    HANG = "hang"  # no progress for longer than allowed
    NODE_LOST = "node-lost"  # a node stopped answering
    STRAGGLER = "straggler"  # one rank held all others back
    DEVICE_MEMORY = "device-memory"  # the device ran out of memory
    DEVICE_ERROR = "device-error"  # the device or its driver failed (XID, ECC, a fallen bus)
    COLLECTIVE = "collective-error"  # ranks lost each other: NCCL or gloo said so
    CORRUPTION = "silent-corruption"  # ranks that must hold the same values do not
    NOT_FINITE = "not-finite"  # the loss is not a number any more
    RESIZED = "resized"  # nodes were lost or came back: training goes on with others
    AGENT_LOST = "agent-lost"  # the agent died
    COMMAND_NOT_FOUND = "command-not-found"  # the program does not exist or cannot be executed
    DISK_FULL = "disk-full"
    DISK_ERROR = "disk-error"  # the disk cannot be read or written: an input/output error, a file system gone read-only
    BAD_DATA = "bad-data"  # training data vanished or changed under the job
    CHECKPOINT = "checkpoint"  # no checkpoint could be read or written
    LAUNCH = "launch"  # the backend could not start the attempt


_ORDER = {reason: index for index, reason in enumerate(Reason)}


def precedence(reason: Reason) -> int:
    """Return the reason's place in the list; the smallest is the one to show."""
    return _ORDER[reason]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """One candidate, or one group of candidates alike, that cannot or should not run, and the figures that say why."""

    code: Reason
    what: str  # the candidate in short: "8 x H100, fsdp, micro-batch 4"
    need: float | None = None  # in the base unit of the reason (bytes, devices, seconds, currency)
    have: float | None = None
    hint: str = ""  # what change would make it fit
    candidates: int = 1  # how many candidates this row stands for
    feasible: int = 0  # how many others on the same devices do fit: above zero, the row is no verdict on these devices
    data: Mapping[str, float | int | str] = field(default_factory=dict)
