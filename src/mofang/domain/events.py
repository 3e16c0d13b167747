"""What agents and workers report, and what the controller records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Event", "EventKind"]


class EventKind(StrEnum):
    """Every kind of event. The comment names the keys of ``data``."""

    # the controller, about a job (source "control", attempt 0 or the attempt's number)
    SUBMITTED = "submitted"  # plans
    WAITING = "waiting"  # reason, message
    ATTEMPT_STARTED = "attempt-started"  # plan_index, devices, nodes
    ATTEMPT_ENDED = "attempt-ended"  # reason, message
    AGENT_RESTARTED = "agent-restarted"  # node
    STOP_REQUESTED = "stop-requested"  # by
    JOB_ENDED = "job-ended"  # state, reason, message
    # the agent (source "agent-00")
    GENERATION_STARTED = "generation-started"  # workers, pids, port
    WORKER_EXITED = "worker-exited"  # rank, exit_code, signal, message
    HANG_DETECTED = "hang-detected"  # rank, silent_s, step, limit_s, evidence (what it was seen to do)
    GENERATION_ENDED = "generation-ended"  # reason, message, step
    STRAGGLER_DETECTED = "straggler-detected"  # rank, node, ratio (its compute time by the others' median), step
    MEMBERS_CHANGED = "members-changed"  # nodes (in use), spares, workers, message
    RISK = "risk"  # node, probability, horizon_s, cause (what weighs most), snapshot (whether one was asked for)
    REPLICATED = "replicated"  # node (to which), step, bytes, seconds
    STANDBY = "standby"  # node, ready, seconds (until it was), message
    OUTCOME = "outcome"  # reason, message: the agent's last word on the attempt
    # a worker (source "r0000")
    PHASE = "phase"  # name (data, build, load, train, validate, sample, export), done, total, detail
    STEP = "step"  # step, loss, lr, grad_norm, step_time_s, tokens_per_s, mfu, memory_bytes
    VALIDATION = "validation"  # step, loss, and what else the recipe measures (accuracy)
    CHECKPOINT_SAVED = "checkpoint-saved"  # step, bytes, seconds
    SNAPSHOT = "snapshot"  # step (the newest), count, bytes, stall_s (all since the last such event), every_steps
    SNAPSHOTS_OFF = "snapshots-off"  # message: why there is no tier in memory
    LOSS_SPIKE = "loss-spike"  # step, loss, grad_norm, score (robust standard deviations), message
    ROLLED_BACK = "rolled-back"  # step, to, why, skipped
    CORRUPTION_DETECTED = "corruption-detected"  # step, ranks, what
    CHECKPOINT_LOADED = "checkpoint-loaded"  # step, seconds, path, tier (memory, peer, disk)
    CHECKPOINT_REFUSED = "checkpoint-refused"  # path, message
    CHECKPOINT_FAILED = "checkpoint-failed"  # step, message
    FAULT_INJECTED = "fault-injected"  # step, rank, what
    SAMPLE = "sample"  # text
    SERVING = "serving"  # url, model: the service answers there from now on
    TRAFFIC = "traffic"  # requests, failed, running, input_tokens, output_tokens, busy_s, tokens_per_s, ttft_s, tpot_s
    EXPORTED = "exported"  # path, what (adapter, model), bytes
    RESULT = "result"  # steps, loss, validation_loss, seconds, tokens, params; a service: requests, seconds, tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    (job_id, attempt, generation, source, sequence) is unique, so ingesting twice is harmless.
    ``cursor`` is the store's running number, 0 before it is stored.
    """

    job_id: str
    attempt: int
    generation: int
    source: str
    sequence: int
    time: float
    kind: EventKind
    data: Mapping[str, Any] = field(default_factory=dict)
    cursor: int = 0
