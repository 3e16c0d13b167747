"""``mofang plan``: ranked plans with predictions, and why others are not among them."""

from __future__ import annotations

import argparse
import sys

from mofang.cli import session
from mofang.cli.fleet import read_fleet
from mofang.cli.jobfile import add_job_options, find_plans, load
from mofang.cli.output import add_output_option, emit, line
from mofang.cli.parser import examples
from mofang.cli.plans import print_basis, print_plans, print_rejections, require_plans
from mofang.domain.plan import MatchResult
from mofang.domain.scenario import Scenario
from mofang.errors import UsageError
from mofang.report.words import asked_text, plural
from mofang.units import parse_request

__all__ = ["configure", "execute"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("job", help="a job file, or a saved plan")
    add_job_options(parser)
    parser.add_argument(
        "--hardware",
        action="append",
        default=[],
        metavar="NAME:COUNT",
        help="plan for hardware only described: H100:8, H100:8..64; may be given several times (default: your fleet)",
    )
    parser.add_argument("--fleet", metavar="FILE", help="plan for the hardware of a fleet file (`mofang fleet export`)")
    parser.add_argument("-n", "--num-plans", type=_count, default=8, metavar="N", help="how many plans (default: 8)")
    parser.add_argument(
        "--explain", action="store_true", help="also every rejection, and what the best estimate rests on"
    )
    add_output_option(parser)
    parser.epilog = examples(
        "mofang plan job.yaml",
        "mofang plan job.yaml --hardware H100:8..64 --hardware A100-80GB:16 --explain",
        "mofang plan job.yaml -o yaml > best.yaml && mofang run best.yaml",
        exit_codes="0 there is a plan, 2 the job file is wrong, 3 no feasible plan (the reasons are shown)",
    )


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def execute(args: argparse.Namespace) -> int:
    """Print the plans; with ``-o yaml`` the best one, as a file that ``mofang run`` takes."""
    requests = [parse_request(text) for text in args.hardware]
    if requests and args.fleet:
        raise UsageError("--hardware and --fleet exclude each other", hint="describe the hardware in one of them")
    file = load(args.job, args.set)
    pools = read_fleet(args.fleet) if args.fleet else None
    with session.connect() as client:
        if pools is not None:
            result = client.plan(file.scenario, None, args.num_plans, pools=pools)
        elif requests:
            result = client.plan(file.scenario, requests, args.num_plans)
        else:
            result = find_plans(client, file, args.num_plans)
    if not result.plans:
        if args.output == "table":
            print_rejections(result, everything=args.explain, stream=sys.stderr)
        require_plans(result)
    _show(file.scenario, result, args)
    return 0


def _show(scenario: Scenario, result: MatchResult, args: argparse.Namespace) -> None:
    if args.output == "json":
        emit(result, "json")
    elif args.output == "yaml":
        from mofang.spec.plan_file import plan_to_yaml  # noqa: PLC0415 - only here

        sys.stdout.write(plan_to_yaml(scenario, result.plans[0]))
    else:
        line(f"{scenario.name}: {asked_text(scenario)}; best for {scenario.goal.value} first")
        line()
        print_plans(result.plans)
        if args.explain:
            print_basis(result.plans[0])
        print_rejections(result, everything=args.explain)
        line()
        line(f"{plural(result.candidates, 'candidate')} looked at. Run the best: mofang run {args.job}")
