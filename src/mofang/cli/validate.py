"""``mofang validate``: predictions scored against measurements, by fits that never saw what they are scored on."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mofang.cli.output import add_output_option, emit, line, note, print_table
from mofang.cli.parser import examples
from mofang.cli.settings import home
from mofang.errors import UsageError

if TYPE_CHECKING:
    from mofang.catalog.measurements import Loaded
    from mofang.matching.scores import Score
    from mofang.matching.validation import TrainingReport
    from mofang.recovery.prediction import FaultScore

__all__ = ["configure", "execute"]

_FIGURES = ("ROWS", "MEDIAN ERROR", "P90 ERROR", "BIAS", "IN THE 90 % INTERVAL")


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = (
        f"{parser.description}\n\nErrors are those of tokens/s where a source states them, else of its step time, "
        "else of its FLOP/s or MFU, as it counts FLOP.\nA row is never predicted by a fit that saw it: packaged "
        "measurements that are in the file too are left out."
    )
    parser.add_argument("what", choices=("training", "inference", "faults"), help="which predictions")
    parser.add_argument("path", type=Path, help="measurements: a CSV file, or a folder of them; fault logs: a folder")
    left_out = parser.add_mutually_exclusive_group()
    left_out.add_argument(
        "--leave-one-source-out",
        dest="leave_out",
        action="store_const",
        const="source",
        help="predict every source by a fit on the packaged measurements and all other sources of the file",
    )
    left_out.add_argument(
        "--leave-one-publisher-out",
        dest="leave_out",
        action="store_const",
        const="publisher",
        help="the same with everything of the publisher left out (a source's id up to the first _ or -)",
    )
    parser.add_argument(
        "--train", type=Path, metavar="DIR", help="faults: earlier logs to fit to (default: the packaged models)"
    )
    parser.add_argument("--groups", action="store_true", help="list the groups that differ only in their layout")
    add_output_option(parser)
    parser.epilog = examples(
        "mofang validate training my-runs.csv",
        "mofang validate training measurements.csv --leave-one-source-out -o json",
        "mofang validate inference serving.csv --leave-one-publisher-out",
        "mofang validate faults later-logs/ --train earlier-logs/",
        exit_codes="0 scored, 1 there is nothing to score, or the file is no measurement file",
    )


def execute(args: argparse.Namespace) -> int:
    """Score the predictions and print how good they are."""
    if not args.path.exists():
        raise UsageError(f"{args.path}: no such file or folder", hint="give a CSV file of measurements, or a folder")
    if args.what == "training":
        _training(args)
    elif args.what == "faults":
        _faults(args)
    else:
        _inference(args)
    return 0


def _training(args: argparse.Namespace) -> None:
    from mofang.catalog.knowledge import Catalog  # noqa: PLC0415 - not needed for --help
    from mofang.catalog.measurements import load_training  # noqa: PLC0415
    from mofang.matching.validation import LeaveOut, validate_training  # noqa: PLC0415

    catalog = Catalog.load(home() / "catalog")
    loaded = load_training(args.path, catalog)
    report = validate_training(loaded.rows, catalog, LeaveOut(args.leave_out or "file"))
    if args.output != "table":
        emit({**report.to_data(), "broken": _broken(loaded)}, args.output)
        return
    _tell_broken(loaded)
    _print_training(report)
    if args.groups:
        _print_groups(report)


def _inference(args: argparse.Namespace) -> None:
    from mofang.catalog.knowledge import Catalog  # noqa: PLC0415 - not needed for --help
    from mofang.catalog.measurements import load_serving  # noqa: PLC0415
    from mofang.matching.serving.validation import validate_serving  # noqa: PLC0415

    loaded = load_serving(args.path, Catalog.load(home() / "catalog"))
    data = validate_serving(loaded.rows, args.leave_out).to_data()
    if args.output != "table":
        emit({**data, "broken": _broken(loaded)}, args.output)
        return
    _tell_broken(loaded)
    _print_inference(data)


def _faults(args: argparse.Namespace) -> None:
    from mofang.recovery.prediction import read_fault_logs, validate_faults  # noqa: PLC0415 - not needed for --help

    if args.leave_out is not None:
        raise UsageError("fault logs are split by time, not by source", hint="give earlier logs with --train")
    note("reading the logs and fitting; it takes about a minute for a million unit-weeks")
    trained = None if args.train is None else read_fault_logs(args.train)
    scores = validate_faults(read_fault_logs(args.path), trained)
    if args.output != "table":
        emit({"sets": [one.to_data() for one in scores]}, args.output)
        return
    _print_faults(scores)


def _broken(loaded: Loaded[Any]) -> list[dict[str, Any]]:
    return [{"file": one.file, "line": one.line, "message": one.message} for one in loaded.problems]


def _tell_broken(loaded: Loaded[Any]) -> None:
    for problem in loaded.problems:
        note(f"left out: {problem}")


def _figures(score: Score | Mapping[str, Any]) -> list[str]:
    known = score if isinstance(score, Mapping) else score.to_data()
    cells = [_percent(known[name]) for name in ("median_ape", "p90_ape", "bias", "coverage_90")]
    return [str(known["n"]), *cells]


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


_LEFT_OUT = {"file": "all rows of this file", "source": "each source in turn", "publisher": "each publisher in turn"}


def _print_training(report: TrainingReport) -> None:
    title = f"training, tokens/s; left out of the fit: {_LEFT_OUT[report.leave_out.value]}"
    groups = [("overall", report.overall), *((f"  {name}", one) for name, one in report.vendors.items())]
    print_table(("", *_FIGURES), [[name, *_figures(one)] for name, one in groups], title=title)
    line()
    print_table(("SOURCE", *_FIGURES), [[name, *_figures(one)] for name, one in report.sources.items()])
    line()
    _print_layout(report)
    line(f"memory: median error {_percent(report.memory.median_ape)} of {report.memory.n} rows that state it")
    for one in report.times:
        shown = f"rank correlation of predicted and measured time {one.correlation:.3f}"
        line(f"{one.benchmark}: {shown}, {one.n} submissions ({', '.join(one.vendors)})")
    line(f"scored by {_counts(report.quantities)}")
    if report.assumed:
        line(f"not stated, filled by the field's defaults: {_counts(report.assumed)}")
    if report.unscored:
        line(f"not scored: {_counts(report.unscored)}")


def _print_layout(report: TrainingReport) -> None:
    layout = report.layout
    if layout.concordance is None or layout.mean_regret is None or layout.concordance_90 is None:
        line("layouts: no rows that differ only in their layout")
        return
    low, high = layout.concordance_90
    line(
        f"layouts: {layout.groups} groups of {layout.rows} rows that differ only in it; the predicted best loses "
        f"{_percent(layout.mean_regret)} on average; {_percent(layout.concordance)} of pairs are in order "
        f"(90 % interval {_percent(low)} to {_percent(high)})"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{name} {count}" for name, count in counts.items())


def _print_groups(report: TrainingReport) -> None:
    for group in report.groups:
        line()
        order = sorted(range(len(group.layouts)), key=lambda place: -group.measured[place])
        rows = [[group.layouts[at], f"{group.measured[at]:.4g}", f"{group.predicted[at]:.4g}"] for at in order]
        print_table(("LAYOUT", "MEASURED", "PREDICTED"), rows, title=group.what)


def _print_faults(scores: Sequence[FaultScore]) -> None:
    columns = (
        "SET",
        "ROWS",
        "FAILING",
        "AUPRC",
        "TRIVIAL RULE",
        "GAIN, 95 %",
        "AUROC",
        "CALIBRATION ERROR",
        "FITTED ON",
    )
    rows = [
        (
            one.name,
            f"{one.n:,}",
            f"{one.base_rate:.2%}",
            f"{one.auprc:.4f}",
            f"{one.trivial_auprc:.4f} ({one.trivial_rule})",
            f"{one.gain_95[0]:+.4f}..{one.gain_95[1]:+.4f}",
            f"{one.auroc:.3f}",
            f"{one.ece:.4f}",
            one.fitted_on,
        )
        for one in scores
    ]
    print_table(columns, rows, title="faults")
    for one in scores:
        line(f"{one.name}: {one.task}: {_WORTH[one.pays, one.gain_95[1] < 0.0]}")


_WORTH = {
    (True, False): "predicting beats the trivial rule",
    (False, False): "the interval includes no gain over the trivial rule",
    (False, True): "predicting does not pay: the trivial rule is better",
}


def _print_inference(data: Mapping[str, Any]) -> None:
    figures = [(name, data[name]) for name in ("throughput", "tpot", "ttft") if name in data]
    print_table(("", *_FIGURES), [[name, *_figures(one)] for name, one in figures], title="inference")
    line()
    rows: list[Sequence[str]] = []
    for source in data["sources"]:
        rows += [[source["source_id"], name, *_figures(source[name])] for name, _ in figures if source.get(name)]
    print_table(("SOURCE", "", *_FIGURES), rows)
    for name in ("unscored", "quantities"):
        if data.get(name):
            line(f"{'not scored' if name == 'unscored' else 'scored by'}: {_counts(data[name])}")
