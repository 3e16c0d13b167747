"""``mofang explain``: why a job waits, or what happened to it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from mofang.cli import session
from mofang.cli.outcome import goodput_text, resumed_from
from mofang.cli.output import add_output_option, emit, line, print_table
from mofang.cli.parser import examples
from mofang.cli.plans import print_plans
from mofang.cli.progress import Progress, absorb
from mofang.clock import utc_text
from mofang.domain.events import Event, EventKind
from mofang.domain.job import Job, JobState
from mofang.report.summary import Summary, summarise
from mofang.report.words import asked_text, reason_text
from mofang.units import show_duration

__all__ = ["configure", "execute"]

_FREQUENT = {EventKind.STEP, EventKind.PHASE, EventKind.CHECKPOINT_SAVED, EventKind.SNAPSHOT, EventKind.TRAFFIC}
_FAULTS = {EventKind.GENERATION_ENDED, EventKind.ATTEMPT_ENDED}


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("job", help="id, the start of an id, or name")
    add_output_option(parser)
    parser.epilog = examples("mofang explain code-gpt", "mofang explain 7f3a -o json")


def execute(args: argparse.Namespace) -> int:
    """Print a job's state with its reason, what it waits for, its attempts, its plans and its story."""
    with session.connect() as client:
        found = client.explain(args.job)
        if args.output != "table":
            emit(found, args.output)
            return 0
        job = client.job(args.job)
        events = session.all_events(client, job.id)
    _print_state(job, found)
    _print_blockers(found.get("blockers") or [])
    _print_attempts(found.get("attempts") or [])
    line()
    line("plans (* is the one that it runs with, or ran with last)")
    chosen = job.attempt.plan_index if job.attempt is not None else None
    print_plans(job.plans, job.scenario, chosen=chosen)
    _print_story([event for event in events if event.kind not in _FREQUENT])
    if any(event.kind in _FAULTS for event in events):
        _print_faults(summarise(job, events))
    return 0


def _print_state(job: Job, found: Mapping[str, Any]) -> None:
    done = job.state is JobState.SUCCEEDED
    why = "" if done else job.message or found.get("message") or reason_text(found.get("reason") or job.reason)
    line(f"{job.name} ({job.id}): {job.state.value}{f': {why}' if why else ''}")
    line(f"asked: {asked_text(job.scenario)}")
    position = found.get("position")
    if job.state is JobState.WAITING and position is not None:
        line(f"place in the queue: {position}")
    start = found.get("expected_start")
    if isinstance(start, int | float):
        line(f"expected to start at {utc_text(start)}")


def _print_blockers(blockers: Sequence[Any]) -> None:
    if not blockers:
        return
    line()
    rows = [blocker if isinstance(blocker, Mapping) else {"what": str(blocker)} for blocker in blockers]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    title = "what it waits for"
    print_table([str(key) for key in columns], [[_cell(row.get(key)) for key in columns] for row in rows], title=title)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _print_attempts(attempts: Sequence[Mapping[str, Any]]) -> None:
    if not attempts:
        return
    line()
    rows = []
    for attempt in attempts:
        started, ended = attempt.get("started_at"), attempt.get("ended_at")
        rows.append(
            (
                str(attempt.get("number")),
                str(int(attempt.get("plan_index") or 0) + 1),
                utc_text(started) if started else "-",
                show_duration(max(0.0, ended - started)) if started and ended else "-",
                str(attempt.get("state", "")),
                str(attempt.get("message") or "") or reason_text(attempt.get("reason")),
            )
        )
    print_table(("attempt", "plan", "started", "lasted", "state", "why it ended"), rows)


def _print_faults(summary: Summary) -> None:
    """Print what failed, how it was seen, where the job went on and what that cost."""
    if not summary.recoveries:
        return
    rows = []
    for recovery in summary.recoveries:
        noticed = recovery.detected_at
        rows.append(
            (
                f"{recovery.what} at step {recovery.step}",
                reason_text(recovery.reason) or "-",
                "-" if noticed is None else show_duration(max(0.0, noticed - recovery.fault_at)),
                "never" if recovery.seconds is None else show_duration(recovery.seconds),
                resumed_from(recovery) if recovery.seconds is not None else "-",
                "-" if recovery.cost_s is None else show_duration(recovery.cost_s),
            )
        )
    line()
    print_table(("fault", "cause", "noticed after", "went on after", "from", "cost in all"), rows)
    line(f"where the time went: {goodput_text(summary)}")


def _print_story(events: Sequence[Event]) -> None:
    """Print the events that a person would tell, with their times."""
    progress, told = Progress(steps=None), []
    for event in events:
        progress, text = absorb(progress, event)
        if text:
            told.append((utc_text(event.time), text))
    if told:
        line()
        print_table(("when", "what happened"), told)
