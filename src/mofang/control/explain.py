"""Why a job waits, or what happened to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from mofang.domain.codec import to_data
from mofang.domain.events import EventKind
from mofang.domain.job import Job
from mofang.store import attempts, events, jobs

if TYPE_CHECKING:
    from mofang.scheduling.decision import Wait

__all__ = ["explain"]

_FAULTS = tuple(
    kind.value
    for kind in (
        EventKind.AGENT_RESTARTED,
        EventKind.GENERATION_STARTED,
        EventKind.GENERATION_ENDED,
        EventKind.WORKER_EXITED,
        EventKind.HANG_DETECTED,
        EventKind.STRAGGLER_DETECTED,
        EventKind.MEMBERS_CHANGED,
        EventKind.LOSS_SPIKE,
        EventKind.CORRUPTION_DETECTED,
        EventKind.ROLLED_BACK,
        EventKind.SNAPSHOTS_OFF,
        EventKind.RISK,
        EventKind.CHECKPOINT_REFUSED,
        EventKind.CHECKPOINT_FAILED,
    )
)
_MOST_FAULTS = 1000


def explain(connection: Connection, job: Job, wait: Wait | None) -> dict[str, Any]:
    """Return the story of a job as plain values.

    Args:
        connection: a reader's.
        job: the job.
        wait: why it waits, from the latest decision; None where it does not.
    """
    chosen = None if job.attempt is None else job.attempt.plan_index
    blockers = [] if wait is None else jobs.brief(connection, wait.blockers)
    return {
        "job_id": job.id,
        "name": job.name,
        "state": job.state.value,
        "reason": (job.reason if wait is None else wait.reason) or None,
        "message": job.message if wait is None else wait.message,
        "position": None if wait is None else wait.position,
        "expected_start": None if wait is None else wait.expected_start,
        "blockers": blockers,
        "attempts": _attempts(connection, job.id),
        "plans": [
            {"rank": rank, "chosen": rank - 1 == chosen, **to_data(plan)}
            for rank, plan in enumerate(job.plans, start=1)
        ],
    }


def _attempts(connection: Connection, job_id: str) -> list[dict[str, Any]]:
    found = attempts.history(connection, job_id)
    for attempt in found:
        attempt["generations"] = 0
        attempt["faults"] = []
    by_number = {attempt["number"]: attempt for attempt in found}
    for row in events.after(connection, job_id, 0, _MOST_FAULTS, _FAULTS):
        if row["attempt"] not in by_number:
            continue
        attempt = by_number[row["attempt"]]
        attempt["generations"] = max(attempt["generations"], row["generation"])
        if row["kind"] != EventKind.GENERATION_STARTED.value:
            fact = {"time": row["time"], "generation": row["generation"], "kind": row["kind"]}
            attempt["faults"].append(fact | json.loads(row["data"]))
    return found
