"""How a job ended, in a few lines: predicted beside measured, faults survived, what to look at next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mofang.cli.output import emit, line, print_table
from mofang.domain.events import Event
from mofang.domain.job import Job, JobState
from mofang.domain.scenario import Serve
from mofang.errors import JobFailedError
from mofang.report.recoveries import Recovery
from mofang.report.summary import Summary, summarise
from mofang.report.timeline import Activity
from mofang.report.words import difference, plural, quantity, reason_text
from mofang.units import show_duration

__all__ = ["goodput_text", "print_outcome", "require_success", "resumed_from"]


def print_outcome(job: Job, events: Sequence[Event], output: str) -> Summary:
    """Print what became of a job on stdout, and return the figures."""
    summary = summarise(job, events)
    if output == "table":
        _print(job, summary)
    else:
        emit(_data(job, summary), output)
    return summary


def _print(job: Job, summary: Summary) -> None:
    line(
        f"{job.name} ({job.id}): {job.state.value} after {show_duration(summary.end - summary.start)}{_losses(summary)}"
    )
    rows = [
        (row.name, quantity(row.predicted, row.unit), quantity(row.measured, row.unit), difference(row.error))
        for row in summary.comparisons
    ]
    if any(row.measured is not None for row in summary.comparisons):
        print_table(("", "predicted", "measured", "difference"), rows)
    for recovery in summary.recoveries:
        if recovery.seconds is not None:
            line(_recovered(recovery, summary))
    if summary.redone:
        line(f"{plural(summary.redone, 'step')} made again")
    if summary.recoveries and summary.points:
        line(f"where the time went: {goodput_text(summary)}")


def _recovered(recovery: Recovery, summary: Summary) -> str:
    if not summary.points:
        went_on = "answered" if summary.served else "started"
        return f"{recovery.what}: {went_on} again after {show_duration(recovery.seconds or 0.0)}"
    origin = resumed_from(recovery)
    after = show_duration(recovery.seconds or 0.0)
    return f"{recovery.what} at step {recovery.step}: next step after {after}, from {origin}"


def resumed_from(recovery: Recovery) -> str:
    """Return from where a job went on: ``step 40 in memory``."""
    if not recovery.loaded_step:
        return "the beginning"
    places = {"memory": "the snapshot in memory", "peer": "a peer's snapshot"}
    return f"{places.get(recovery.loaded_from, 'the checkpoint')} of step {recovery.loaded_step}"


def goodput_text(summary: Summary) -> str:
    """Return the split of a job's time, goodput first: ``compute 93.1 %, restart 4.2 %, ...``."""
    ordered = sorted(summary.shares.items(), key=lambda item: (item[0] is not Activity.COMPUTE, -item[1]))
    return ", ".join(f"{activity.value} {quantity(share, 'fraction')}" for activity, share in ordered)


def _losses(summary: Summary) -> str:
    parts = []
    if summary.curve:
        parts.append(plural(summary.curve[-1].step, "step"))
    if summary.final_loss is not None:
        parts.append(f"loss {summary.final_loss:.3f}")
    if summary.final_validation_loss is not None:
        parts.append(f"validation loss {summary.final_validation_loss:.3f}")
    if summary.accuracy is not None:
        parts.append(f"accuracy {quantity(summary.accuracy, 'fraction')}")
    if summary.served is not None:
        parts.append(plural(summary.served.requests, "request"))
    return ", " + ", ".join(parts) if parts else ""


def _data(job: Job, summary: Summary) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "name": job.name,
        "state": job.state,
        "reason": job.reason,
        "message": job.message,
        "seconds": summary.end - summary.start,
        "steps": summary.curve[-1].step if summary.curve else None,
        "loss": summary.final_loss,
        "validation_loss": summary.final_validation_loss,
        "accuracy": summary.accuracy,
        "served": None if summary.served is None else asdict(summary.served),
        "comparisons": [asdict(row) for row in summary.comparisons],
        "recoveries": [asdict(row) | {"seconds": row.seconds, "cost_s": row.cost_s} for row in summary.recoveries],
        "redone_steps": summary.redone,
        "shares": dict(summary.shares),
        "sample": summary.sample,
    }


def require_success(job: Job) -> None:
    """Return if the job succeeded; a service that was stopped has.

    Raises:
        JobFailedError: it failed or was stopped; the hint says where to look.
    """
    stopped = job.state is JobState.STOPPED and isinstance(job.scenario.task, Serve)
    if job.state is JobState.SUCCEEDED or stopped:
        return
    why = job.message or reason_text(job.reason)
    raise JobFailedError(
        f"{job.name} ({job.id}) {job.state.value}{f': {why}' if why else ''}",
        hint=f"`mofang logs {job.id}` shows its output, `mofang explain {job.id}` what happened",
        data={"job_id": job.id, "state": job.state.value, "reason": job.reason.value if job.reason else None},
    )
