"""``mofang run``: plan a job, start it and follow it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from mofang.cli import session
from mofang.cli.columns import clean
from mofang.cli.follow import follow
from mofang.cli.jobfile import add_job_options, find_plans, load, read_secrets
from mofang.cli.outcome import print_outcome, require_success
from mofang.cli.output import add_output_option, emit, line, note
from mofang.cli.parser import examples
from mofang.cli.plans import print_plans, print_rejections, require_plans
from mofang.cli.screens import open_screen
from mofang.domain.events import Event
from mofang.domain.job import JobState
from mofang.domain.plan import MatchResult, Plan
from mofang.domain.scenario import Scenario
from mofang.errors import NotFoundError, UsageError
from mofang.launchers.program import check_alike
from mofang.report.recoveries import failed_rank
from mofang.report.words import asked_text
from mofang.spec.material import check_material

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mofang.client import Client

__all__ = ["attend", "configure", "execute", "launch"]

_NUM_PLANS = 8
_LAST_LINES = 12


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("job", nargs="?", help="a job file, or a saved plan (`mofang plan -o yaml`)")
    add_job_options(parser)
    parser.add_argument("--name", help="what to call the job (default: as its file says)")
    parser.add_argument("--key", help="running twice with one key makes one job; the second run follows it")
    parser.add_argument("-y", "--yes", action="store_true", help="start without asking")
    parser.add_argument("-d", "--detach", action="store_true", help="start, print the job's id, and return")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be written and executed; start nothing"
    )
    parser.add_argument("--attach", metavar="JOB", help="follow a job that is there already")
    add_output_option(parser)
    parser.epilog = examples(
        "mofang run job.yaml",
        "mofang run job.yaml --set train.steps=200 --yes --detach",
        "mofang run best.yaml --key nightly-2026-11-22",
        "mofang run --attach 7f3a",
        exit_codes="0 the job succeeded (or was started, with -d), 1 it failed or was stopped, 2 the file is wrong,\n"
        "  3 no feasible plan, 4 the controller cannot be reached, 130 detached with Ctrl-C: the job goes on",
    )


def execute(args: argparse.Namespace) -> int:
    """Start a job and stay with it to its end, unless told otherwise."""
    if (args.job is None) == (args.attach is None):
        raise UsageError("give a job file, or --attach and a job", hint="`mofang run --help` shows how it is used")
    with session.connect() as client:
        if args.attach is not None:
            return attend(client, client.job(args.attach).id, args.output)
        job_id = launch(client, args)
        if job_id is None:
            return 0
        if args.detach:
            _print_id(job_id, args.output)
            return 0
        return attend(client, job_id, args.output)


def _print_id(job_id: str, output: str) -> None:
    if output == "table":
        line(job_id)
    else:
        emit({"job_id": job_id}, output)


def launch(client: Client, args: argparse.Namespace) -> str | None:
    """Plan, ask, submit; return the job's id, or None where nothing was to be started."""
    file = load(args.job, args.set)
    scenario = replace(file.scenario, name=args.name) if args.name else file.scenario
    check_material(scenario)  # before the plan: what cannot run stops it here
    secrets = read_secrets(scenario)
    result = find_plans(client, file, _NUM_PLANS)
    _show(scenario, result)
    plans = _alike(require_plans(result))
    if args.dry_run:
        _show_artefacts(client, scenario, plans[0], args.output)
        return None
    if not args.yes and not _agreed():
        note("not started")
        return None
    submitted = client.submit(scenario, plans, key=args.key, secrets=secrets)
    note(f"job {submitted.job_id} {'submitted' if submitted.created else 'is there already, under this key'}")
    return submitted.job_id


def _alike(plans: tuple[Plan, ...]) -> tuple[Plan, ...]:
    """Return the plans that can be run as one job.

    Raises:
        InfeasibleError: the best of them cannot.
    """
    check_alike(plans[0])
    return tuple(plan for plan in plans if not plan.parts)


def _show(scenario: Scenario, result: MatchResult) -> None:
    note(f"{scenario.name}: {asked_text(scenario)}")
    if result.plans:
        print_plans(result.plans, scenario, stream=sys.stderr)
    else:
        print_rejections(result, everything=False, stream=sys.stderr)
    sys.stderr.flush()


def _agreed() -> bool:
    """Ask a person at a terminal; where there is none, running the command was the answer."""
    if not sys.stdin.isatty():
        return True
    sys.stderr.write("Run plan 1? [Y/n] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    return bool(answer) and answer.strip().lower() in {"", "y", "yes"}


def _show_artefacts(client: Client, scenario: Scenario, plan: Plan, output: str) -> None:
    artefacts = client.render(scenario, plan)
    if output != "table":
        emit(artefacts, output)
        return
    for artefact in artefacts:
        line(f"# {artefact.name}")
        line(artefact.text.rstrip("\n"))
        line()


def attend(client: Client, job_id: str, output: str) -> int:
    """Follow a job to its end, print its outcome and return the exit code.

    Raises:
        JobFailedError: it failed or was stopped.
    """
    job = client.job(job_id)
    steps = next((plan.steps for plan in job.plans), None)
    try:
        follow(client, job_id, steps, open_screen(), session.clock())
    except KeyboardInterrupt:
        note(
            f"\ndetached; job {job_id} goes on. Come back: mofang run --attach {job_id}   "
            f"its output: mofang logs -f {job_id}   end it: mofang stop {job_id}"
        )
        return 130
    job, events = client.job(job_id), session.all_events(client, job_id)
    print_outcome(job, events, output)
    sys.stdout.flush()
    if job.state is JobState.FAILED:
        _show_last_words(client, job_id, events)
    require_success(job)
    return 0


def _show_last_words(client: Client, job_id: str, events: Sequence[Event]) -> None:
    """Show the end of the output of the worker that failed: most failures explain themselves there."""
    rank = failed_rank(events)
    try:
        text = client.logs(job_id, rank=rank, offset=-4000).text
    except NotFoundError:
        return
    if text.strip():
        note(f"--- the last lines of worker {rank}")
        note("\n".join(clean(row) for row in text.splitlines()[-_LAST_LINES:]))
        note("---")
