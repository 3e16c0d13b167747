"""``mofang simulate recovery``: what faults cost a long training run under different practices."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mofang.cli.output import add_output_option, emit, line, print_table
from mofang.cli.parser import did_you_mean, examples
from mofang.errors import UsageError
from mofang.units import parse_count, parse_duration, show_count, show_duration

if TYPE_CHECKING:
    from mofang.recovery.simulation import FaultModel, Practice, Study

__all__ = ["configure", "execute"]

_MOST_DEVICES = 1_000_000
_FORMULA_HOLDS = 0.92  # of the time useful: below it the first order is off by more than half a point


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("what", choices=("recovery",), help="what to simulate")
    parser.add_argument("--gpus", action="append", metavar="N", help="devices of the job, as often as you like (1000)")
    parser.add_argument("--practice", action="append", metavar="NAME", help="only these practices (default: all)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="DELAY=TIME", help="another delay in all practices: detect_s=30s"
    )
    parser.add_argument("--sweep", metavar="DELAY=TIME,...", help="each of these delays in turn: restart_s=5s,30s,5m")
    parser.add_argument(
        "--faults-per-month", metavar="N", help="faults of 1,000 devices in 30 days (default: a trace's)"
    )
    parser.add_argument("--poisson", action="store_true", help="faults come evenly, not in bursts as in the trace")
    parser.add_argument("--spares", metavar="NODES", help="spare nodes (default: enough for 99 %% of the time)")
    parser.add_argument("--node-gpus", default="8", metavar="N", help="devices in a node (default: 8)")
    parser.add_argument("--days", default="30", metavar="N", help="simulated days of a run (default: 30)")
    parser.add_argument("--runs", default="200", metavar="N", help="runs for each row (default: 200)")
    parser.add_argument("--seed", default="0", metavar="N", help="of the first run (default: 0)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .png, .svg or .pdf")
    add_output_option(parser)
    parser.epilog = examples(
        "mofang simulate recovery --gpus 1000 --gpus 10000",
        "mofang simulate recovery --practice memory --sweep restart_s=1s,10s,60s",
        "mofang simulate recovery --gpus 1000 --faults-per-month 15 --plot waste.png",
    )


def execute(args: argparse.Namespace) -> int:
    """Simulate and print."""
    from mofang.cli.waste import check_waste_picture, write_waste_picture  # noqa: PLC0415 - not needed for --help

    picture = None if args.plot is None else check_waste_picture(args.plot)
    found = _studies(args)
    if picture is not None:
        write_waste_picture(picture, found)
    if args.output != "table":
        emit({"simulated": True, "studies": found}, args.output)
        return 0
    _print(found)
    return 0


def _studies(args: argparse.Namespace) -> list[Study]:
    from mofang.recovery.simulation import study  # noqa: PLC0415 - not needed for --help

    faults = _faults(args)
    return [
        study(
            name,
            practice,
            faults,
            devices=devices,
            node_devices=_whole(args.node_gpus, "--node-gpus"),
            spares=None if args.spares is None else _whole(args.spares, "--spares", least=0),
            days=float(_whole(args.days, "--days")),
            runs=_whole(args.runs, "--runs", least=2),
            seed=_whole(args.seed, "--seed", least=0),
        )
        for devices in [_whole(text, "--gpus", most=_MOST_DEVICES) for text in args.gpus or ["1000"]]
        for name, practice in _practices(args).items()
    ]


def _faults(args: argparse.Namespace) -> FaultModel:
    from mofang.recovery.simulation import packaged_faults  # noqa: PLC0415 - not needed for --help

    faults = packaged_faults()
    if args.poisson:
        faults = replace(faults, interval_cv=1.0)
    if args.faults_per_month is not None:
        faults = replace(faults, per_1000_devices_month=float(_whole(args.faults_per_month, "--faults-per-month")))
    return faults


def _practices(args: argparse.Namespace) -> Mapping[str, Practice]:
    """Return what to simulate by name, with other delays where they were asked for."""
    from mofang.recovery.simulation import packaged_practices  # noqa: PLC0415 - not needed for --help

    known = packaged_practices()
    for name in args.practice or ():
        if name not in known:
            raise UsageError(
                f"there is no practice {name!r}", hint=did_you_mean(name, known) or f"there are {', '.join(known)}"
            )
    chosen = {name: known[name] for name in args.practice or known}
    for text in args.set:
        delay, (value,) = _delays(text, "--set", most=1)
        chosen = {name: _with(one, delay, value) for name, one in chosen.items()}
    if args.sweep is None:
        return chosen
    delay, values = _delays(args.sweep, "--sweep", most=50)
    return {
        f"{name}, {delay} {show_duration(value)}": _with(one, delay, value)
        for name, one in chosen.items()
        for value in values
    }


def _with(practice: Practice, delay: str, seconds: float) -> Practice:
    changed: dict[str, Any] = {delay: seconds}
    return replace(practice, **changed)


def _delays(text: str, option: str, *, most: int) -> tuple[str, Sequence[float]]:
    """Return which delay of a practice is meant, and its values in seconds."""
    from mofang.recovery.simulation import Practice  # noqa: PLC0415 - not needed for --help

    name, _, given = text.partition("=")
    delays = [field.name for field in fields(Practice) if field.name.endswith("_s")]
    if name not in delays:
        near = did_you_mean(name, delays)
        raise UsageError(f"{option}: a practice has no delay {name!r}", hint=near or f"there are {', '.join(delays)}")
    values = [parse_duration(part) for part in given.split(",") if part.strip()]
    if not 1 <= len(values) <= most or any(value < 0 or (name == "interval_s" and value <= 0) for value in values):
        raise UsageError(f"{option}: {text!r} gives {name} no time", hint=f"write it like {option} {name}=30s")
    return name, values


def _whole(text: str, option: str, *, least: int = 1, most: int = 1_000_000_000) -> int:
    value = parse_count(text)
    if not least <= value <= most:
        raise UsageError(f"{option} {text}: it is to lie between {least:,} and {most:,}", hint=f"{option} {least}")
    return value


def _print(found: Sequence[Study]) -> None:
    """Print a table for each size: what every practice gets out of the machine, and where the rest goes."""
    for devices in dict.fromkeys(one.devices for one in found):
        rows = [one for one in found if one.devices == devices]
        line(
            f"simulated: {devices:,} devices, {rows[0].faults:.1f} faults in 30 days, {rows[0].spares} spare nodes, "
            f"{rows[0].runs} runs"
        )
        columns = ("practice", "ETTR", "95 %", "device-hours lost", "snapshot every", "most is lost to", "first order")
        print_table(columns, [_row(one) for one in rows])
        line()
    line(
        "ETTR: the part of the time that goes into steps that count. Device-hours are those of 30 days, without spares."
    )


def _row(one: Study) -> tuple[str, ...]:
    first, second = sorted(one.losses, key=lambda cause: -one.losses[cause])[:2]
    return (
        one.practice,
        f"{one.ettr:.2%}",
        f"{one.ettr_95[0]:.2%}..{one.ettr_95[1]:.2%}",
        show_count(one.lost_device_hours),
        show_duration(one.interval_s),
        f"{first} {one.losses[first]:.2%}, {second} {one.losses[second]:.2%}",
        f"{one.formula_ettr:.2%}" if one.formula_ettr > _FORMULA_HOLDS else "does not hold",
    )
