"""``mofang recovery``: fault predictions of one's own, scored honestly before they are used."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mofang.cli.output import add_output_option, emit, line, note, print_table
from mofang.cli.parser import examples
from mofang.cli.settings import home
from mofang.errors import DataError, UsageError

if TYPE_CHECKING:
    from mofang.recovery.prediction import FaultHistory

__all__ = ["configure", "execute"]

_COLUMNS = ("MODEL", "ROWS", "BASE RATE", "AUPRC", "TRIVIAL RULE", "GAIN, 95 %", "AUROC", "CALIBRATION ERROR")


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.description = (
        f"{parser.description}\n\ntrain: fits to the earlier part of the logs and scores on the later part; a model "
        "that beats the trivial rule there\nbeyond chance is fitted to all of them and kept in $MOFANG_HOME/catalog, "
        "where it is used instead of the packaged one.\nrisk: ranks the nodes of a fault log by the chance that they "
        "fail next."
    )
    parser.add_argument("what", choices=("train", "risk"), help="train models, or rank nodes")
    parser.add_argument(
        "logs",
        nargs="+",
        type=Path,
        metavar="LOGS",
        help="folders: fault logs (CSV or Parquet, as of `mofang validate faults`), or run directories with telemetry",
    )
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="where models are kept ($MOFANG_HOME/catalog)")
    parser.add_argument("--force", action="store_true", help="train: keep models that do not beat the trivial rule too")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="risk: so many nodes (default: 20)")
    add_output_option(parser)
    parser.epilog = examples(
        "mofang recovery train my-fault-logs/",
        "mofang recovery train ~/.mofang/runs",
        "mofang recovery risk my-fault-logs/ --top 10",
        exit_codes="0 trained or ranked, 1 no model was good enough to be kept, 2 there is nothing to learn from",
    )


def execute(args: argparse.Namespace) -> int:
    """Train or rank."""
    for folder in args.logs:
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder", hint="give folders of fault logs, or run directories")
    return _train(args) if args.what == "train" else _risk(args)


def _train(args: argparse.Namespace) -> int:
    from mofang.recovery.prediction.short_lead.recorded import attempts_below  # noqa: PLC0415 - not for --help

    folder = args.save or home() / "catalog"
    attempts = [attempt for path in args.logs for attempt in attempts_below(path)]
    logs = [path for path in args.logs if not attempts_below(path)]
    note("fitting; it takes about a minute for a million unit-weeks")
    scores, kept = [], []
    for part, given in ((_train_risk, logs), (_train_short_lead, attempts)):
        if given:
            found, path = part(given, folder, args.force)
            scores += found
            kept += [str(path)] if path is not None else []
    if args.output != "table":
        emit({"sets": scores, "kept": kept}, args.output)
    else:
        _print(scores, kept)
    return 0 if kept else 1


def _train_risk(folders: Sequence[Path], into: Path, force: bool) -> tuple[list[dict[str, Any]], Path | None]:
    from mofang.recovery.prediction.training import keep_risks, score_risk  # noqa: PLC0415 - not for --help

    histories = _histories(folders)
    scores = [(one, score_risk(one)) for one in histories]
    good = [one for one, score in scores if score.pays or force]
    return [score.to_data() for _, score in scores], keep_risks(into, good) if good else None


def _train_short_lead(attempts: Sequence[Path], into: Path, force: bool) -> tuple[list[dict[str, Any]], Path | None]:
    from mofang.recovery.prediction.short_lead.recorded import recorded_traces  # noqa: PLC0415 - not for --help
    from mofang.recovery.prediction.training import keep_short_lead, train_short_lead  # noqa: PLC0415 - as above

    model, score = train_short_lead(recorded_traces(attempts))
    return [score], keep_short_lead(into, model) if score["pays"] or force else None


def _histories(folders: Sequence[Path]) -> list[FaultHistory]:
    from mofang.recovery.prediction import read_fault_logs  # noqa: PLC0415 - not needed for --help

    return [history for folder in folders for history in read_fault_logs(folder)]


def _print(scores: Sequence[Mapping[str, Any]], kept: Sequence[str]) -> None:
    rows = [
        (
            str(one["name"]),
            f"{one['n']:,}",
            f"{one['base_rate']:.2%}",
            f"{one['auprc']:.4f}",
            f"{one['trivial_auprc']:.4f} ({one['trivial_rule']})",
            f"{one['gain_95'][0]:+.4f}..{one['gain_95'][1]:+.4f}",
            f"{one['auroc']:.3f}",
            f"{one['ece']:.4f}",
        )
        for one in scores
    ]
    print_table(_COLUMNS, rows, title="scored on the later part of the logs, fitted to the earlier")
    for one in scores:
        worth = (
            "beats the trivial rule" if one["pays"] else "does not beat the trivial rule beyond chance: not recommended"
        )
        line(f"{one['name']}: {one['task']}: {worth}")
    line(f"kept: {', '.join(kept)}" if kept else "kept: nothing; the packaged models stay in use (--force keeps them)")


def _risk(args: argparse.Namespace) -> int:
    from mofang.recovery.prediction.training import chosen_risks, rank_units  # noqa: PLC0415 - not for --help

    known = chosen_risks(args.save or home() / "catalog")
    data: dict[str, list[dict[str, Any]]] = {}
    for history in _histories(args.logs):
        if history.name not in known:
            raise DataError(f"there is no model of {history.name}", hint="train one: mofang recovery train LOGS")
        ranked = rank_units(history, known[history.name])[: max(args.top, 1)]
        data[history.name] = [
            {"unit": one.unit, "probability": one.probability, "horizon_days": one.horizon_days} for one in ranked
        ]
    if args.output != "table":
        emit({"sets": data}, args.output)
        return 0
    for name, rows in data.items():
        cells = [(row["unit"], f"{row['probability']:.2%}") for row in rows]
        days = rows[0]["horizon_days"] if rows else 0.0
        print_table(("UNIT", f"FAULT WITHIN {days:.2g} DAYS"), cells, title=name)
    return 0
