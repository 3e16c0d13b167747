"""``mofang plan``: ranked plans with predictions, and why others are not among them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.cli import session
from mofang.cli.basis import print_basis
from mofang.cli.fleet import read_fleet
from mofang.cli.jobfile import add_job_options, find_plans, load
from mofang.cli.output import add_output_option, emit, line, note
from mofang.cli.pareto import check_picture, write_picture
from mofang.cli.parser import examples
from mofang.cli.plans import print_plans, print_rejections, require_plans
from mofang.cli.settings import home
from mofang.domain.plan import MatchResult
from mofang.domain.scenario import Goal, Scenario
from mofang.errors import NotFoundError, UsageError
from mofang.report.words import asked_text, goal_text, plural
from mofang.units import DeviceRequest, parse_request

if TYPE_CHECKING:
    from mofang.client import Client
    from mofang.domain.hardware import Pool
    from mofang.spec.job_file import JobFile

__all__ = ["configure", "execute"]

_NUM_PLANS = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("job", help="a job file, or a saved plan")
    add_job_options(parser)
    parser.add_argument("--goal", choices=[goal.value for goal in Goal], help="what the best plan minimises")
    parser.add_argument(
        "--hardware",
        action="append",
        default=[],
        metavar="NAME:COUNT",
        help="plan for hardware only described: H100:8, H100:8..64; may be given several times (default: your fleet)",
    )
    parser.add_argument("--fleet", metavar="FILE", help="plan for the hardware of a fleet file (`mofang fleet export`)")
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        type=_price,
        metavar="NAME=AMOUNT",
        help="what a device of this kind costs an hour, with --hardware or --fleet: H100=2.1 (default: the price list)",
    )
    parser.add_argument(
        "-n",
        "--num-plans",
        type=_count,
        metavar="N",
        help="how many plans, near-twins included (default: the best of 8 choices)",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="also what the best estimate is made of and rests on, what would change it, and every rejection",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="also draw time against cost or energy: .png, .svg or .pdf"
    )
    parser.add_argument(
        "--pick", type=_count, default=1, metavar="N", help="which plan -o yaml and -o command write (default: 1)"
    )
    add_output_option(parser, ("table", "json", "yaml", "command"))
    parser.epilog = examples(
        "mofang plan job.yaml",
        "mofang plan job.yaml --hardware H100:8..64 --hardware A100-80GB:16 --explain",
        "mofang plan job.yaml --fleet fleet.yaml --goal cost --price H100=2.1 --plot plans.png",
        "mofang plan job.yaml -o yaml > best.yaml && mofang run best.yaml",
        "mofang plan job.yaml --hardware H100:64 -o command > start.sh",
        exit_codes="0 there is a plan, 2 the job file is wrong, 3 no feasible plan (the reasons are shown)",
    )


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _price(text: str) -> tuple[str, float]:
    name, equals, amount = text.rpartition("=")
    try:
        value = float(amount)
    except ValueError:
        value = 0.0
    if not equals or not name or not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a chip and a price above 0, like H100=2.1")
    return name, value


def execute(args: argparse.Namespace) -> int:
    """Print the plans; with ``-o yaml`` the best one, as a file that ``mofang run`` takes."""
    requests = [parse_request(text) for text in args.hardware]
    _check(args, requests)
    file = load(args.job, [*args.set, *([f"goal={args.goal}"] if args.goal else [])])
    pools = _pools(args, requests)
    with session.connect() as client:
        result = _ask(client, file, requests, pools, args)
    if not result.plans:
        if args.output == "table":
            print_rejections(result, everything=args.explain, stream=sys.stderr)
        require_plans(result)
    if args.pick > len(result.plans):
        raise NotFoundError(f"there is no plan {args.pick}: there are {len(result.plans)}", hint="-n N asks for more")
    _show(file.scenario, result, args)
    return 0


def _check(args: argparse.Namespace, requests: Sequence[DeviceRequest]) -> None:
    if requests and args.fleet:
        raise UsageError("--hardware and --fleet exclude each other", hint="describe the hardware in one of them")
    if args.price and not (requests or args.fleet):
        raise UsageError(
            "--price needs --hardware or --fleet", hint="prices of your own fleet: `mofang catalog prices`"
        )
    if args.plot is not None:
        check_picture(args.plot)


def _pools(args: argparse.Namespace, requests: Sequence[DeviceRequest]) -> tuple[Pool, ...] | None:
    """Return the pools of a fleet file, or of described hardware with prices; None leaves them to the controller."""
    if not args.fleet and not args.price:
        return None
    from mofang.catalog.knowledge import Catalog  # noqa: PLC0415 - tables are read where they are needed
    from mofang.control.pools import described_pools  # noqa: PLC0415

    catalog = Catalog.load(home() / "catalog")
    pools = read_fleet(args.fleet) if args.fleet else described_pools(requests, catalog)
    for name, price in args.price:
        chip = catalog.accelerator(name).name
        if chip not in {pool.accelerator.name for pool in pools}:
            raise UsageError(f"--price {name}: none of this hardware is {chip}", hint="is the name right?")
        pools = tuple(
            replace(pool, price_per_device_hour=price) if pool.accelerator.name == chip else pool for pool in pools
        )
    return pools


def _ask(
    client: Client,
    file: JobFile,
    requests: Sequence[DeviceRequest],
    pools: Sequence[Pool] | None,
    args: argparse.Namespace,
) -> MatchResult:
    if pools is not None:
        return client.plan(file.scenario, None, args.num_plans or _NUM_PLANS, pools=pools, explain=args.explain)
    if requests:
        return client.plan(file.scenario, requests, args.num_plans or _NUM_PLANS, explain=args.explain)
    return find_plans(client, file, args.num_plans or _NUM_PLANS, explain=args.explain)


def _show(scenario: Scenario, result: MatchResult, args: argparse.Namespace) -> None:
    currency = _currency(result)
    if args.plot is not None:
        write_picture(args.plot, scenario.name, result, currency=currency)
        note(f"drawn: {args.plot}")
    if args.output == "json":
        emit(result, "json")
    elif args.output == "yaml":
        from mofang.spec.plan_file import plan_to_yaml  # noqa: PLC0415 - only here

        sys.stdout.write(plan_to_yaml(scenario, result.plans[args.pick - 1]))
    elif args.output == "command":
        from mofang.cli.starting import start_script  # noqa: PLC0415 - only here

        sys.stdout.write(start_script(scenario, result.plans[args.pick - 1]))
    else:
        _show_table(scenario, result, args, currency)


def _show_table(scenario: Scenario, result: MatchResult, args: argparse.Namespace, currency: str) -> None:
    line(f"{scenario.name}: {asked_text(scenario)}; {goal_text(scenario)}")
    line()
    print_plans(result.plans, scenario, currency=currency, everything=args.explain or args.num_plans is not None)
    if args.explain:
        print_basis(result, currency=currency)
    print_rejections(result, everything=args.explain)
    line()
    line(f"{plural(result.candidates, 'candidate')} looked at. {_next(args)}")


def _next(args: argparse.Namespace) -> str:
    """Return what to do with the best plan: described hardware is there for planning only."""
    if args.hardware or args.fleet:
        return "How to start the best by hand: -o command"
    return f"Run the best: mofang run {args.job}"


def _currency(result: MatchResult) -> str:
    """Return the currency of the price list, where anything has a price."""
    costs = [plan.estimate.cost for plan in result.plans if plan.estimate is not None]
    costs += [plan.service.estimate.cost_per_million_tokens for plan in result.plans if plan.service is not None]
    if all(cost is None for cost in costs):
        return ""
    from mofang.catalog.knowledge import Catalog  # noqa: PLC0415 - tables are read where they are needed

    return Catalog.load(home() / "catalog").prices.currency
