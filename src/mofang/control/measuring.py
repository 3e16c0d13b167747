"""What a finished job measured, beside what was predicted: it sharpens the next prediction."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from mofang.domain.codec import encode
from mofang.domain.job import Job
from mofang.store import events
from mofang.store.store import Store

__all__ = ["measurement"]

_WARM_UP = 2  # the first steps compile and touch memory for the first time


def measurement(store: Store, job: Job, now: float) -> dict[str, Any] | None:
    """Return the row of ``measurements`` for a job that succeeded; None where it reported no steps."""
    if job.attempt is None:
        return None
    times = store.read(events.step_times, job.id, "r0000")
    settled = times[_WARM_UP:] or times
    if not settled:
        return None
    plan = job.plans[job.attempt.plan_index]
    return {
        "job_id": job.id,
        "measured_at": now,
        "scenario": encode(job.scenario),
        "strategy": encode(plan.strategy),
        "placement": encode(plan.placement),
        "nodes": json.dumps([part.node for part in job.attempt.allocation.nodes[: plan.placement.num_nodes]]),
        "predicted_step_s": None if plan.estimate is None else plan.estimate.step_time_s,
        "measured_step_s": median(settled),
        "steps": len(times),
    }
