"""``mofang catalog measurements`` and ``import``: what others, the user and Mofang's own jobs measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mofang.catalog.names import key
from mofang.cli.measured import measured_table
from mofang.cli.output import emit, line, note, print_table
from mofang.cli.session import connect
from mofang.cli.settings import home
from mofang.errors import CatalogError, UsageError

if TYPE_CHECKING:
    from mofang.catalog.knowledge import Catalog
    from mofang.catalog.measurements import Problem
    from mofang.domain.measurement import ServingMeasurement, TrainingMeasurement

    Row = TrainingMeasurement | ServingMeasurement

__all__ = ["check", "configure", "show", "take"]

_FILTERS = ("task", "model", "accelerator", "framework", "limit")
_ROWS = 40  # a table longer than that is seldom read
_PROBLEMS = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``measurements``."""
    only = parser.add_argument_group("with measurements")
    only.add_argument("--task", choices=["training", "serving"], help="which (default: training)")
    only.add_argument(
        "--model", metavar="M", help="only this model: a name of the catalogue, or a part of what was written"
    )
    only.add_argument("--accelerator", metavar="A", help="only this chip, likewise")
    only.add_argument("--framework", metavar="F", help="only this framework, likewise")
    only.add_argument("--limit", type=int, metavar="N", help=f"rows of the table (default: {_ROWS}; 0: all)")


def check(args: argparse.Namespace) -> None:
    """Raise ``UsageError`` where an option of ``measurements`` is given with something else, or makes no sense."""
    given = next((name for name in _FILTERS if getattr(args, name) is not None), None)
    if given is not None and args.what != "measurements":
        raise UsageError(f"--{given} goes with `mofang catalog measurements`, not with `{args.what}`")
    if args.limit is not None and args.limit < 0:
        raise UsageError(f"--limit cannot be negative: {args.limit}", hint="0 shows all")


def show(args: argparse.Namespace, catalog: Catalog) -> None:
    """Print the measurements that the filters leave.

    Raises:
        CatalogError: a file of the user's cannot be read, or a filter matches nothing.
    """
    task = args.task or "training"
    rows, problems = _all(task, catalog)
    _warn(problems)
    chosen = _chosen(rows, args, catalog)
    if args.output != "table":
        emit([_data(row) for row in chosen], args.output)
        return
    limit = _ROWS if args.limit is None else args.limit
    shown = chosen[:limit] if limit else chosen
    columns, cells = measured_table(task)
    print_table(columns, [cells(row) for row in shown], title=_title(task, chosen))
    if len(shown) < len(chosen):
        line(f"{len(chosen) - len(shown)} more: `--limit 0` shows all, `--model` and `--accelerator` choose")


def _title(task: str, rows: Sequence[Row]) -> str:
    unmatched = sum(not row.accelerator for row in rows)
    sources = len({row.source_id for row in rows})
    return f"{len(rows)} {task} measurements of {sources} sources; {unmatched} name no chip of the catalogue"


def _all(task: str, catalog: Catalog) -> tuple[list[Row], Sequence[Problem]]:
    """Return the rows of Mofang's own jobs, of the user and of the package, in this order."""
    from mofang.catalog.measurements import load_serving, load_training  # noqa: PLC0415 - other tables need none

    load = load_training if task == "training" else load_serving
    user = load((), catalog, user_dir=home() / "catalog")
    return [*_own(task), *user.rows, *load(None, catalog).rows], user.problems


def _own(task: str) -> Sequence[Row]:
    """Return what this home's jobs measured; a home that never had one is not given a controller for it."""
    if task != "training" or not (home() / "mofang.db").exists():
        return ()
    from mofang.catalog.measurements import from_jobs  # noqa: PLC0415

    with connect() as client:
        return from_jobs(client.measurements())


def _chosen(rows: Sequence[Row], args: argparse.Namespace, catalog: Catalog) -> Sequence[Row]:
    for option, matches in _MATCHES.items():
        wanted = getattr(args, option)
        if wanted is None:
            continue
        rows = [row for row in rows if matches(wanted, row, catalog)]
        if not rows:
            raise CatalogError(f"no measurement has --{option} {wanted!r}", hint=_hint(option))
    return rows


def _hint(option: str) -> str:
    table = {"model": "models", "accelerator": "accelerators"}.get(option)
    return f"`mofang catalog {table}` lists the names" if table else "`mofang catalog measurements` lists them"


def _is_model(wanted: str, row: Row, catalog: Catalog) -> bool:
    named = catalog.model_table.find(wanted)
    if named is not None and row.architecture is not None and row.architecture.name == named.architecture.name:
        return True
    return key(wanted) in key(row.model)


def _is_chip(wanted: str, row: Row, catalog: Catalog) -> bool:
    named = catalog.accelerator_table.find(wanted)
    return row.accelerator == named.name if named is not None else key(wanted) in key(row.accelerator_text)


def _is_framework(wanted: str, row: Row, _: Catalog) -> bool:
    return key(wanted) in {key(row.framework)} or key(wanted) in key(row.framework_text)


_MATCHES: dict[str, Callable[[str, Row, Catalog], bool]] = {
    "model": _is_model,
    "accelerator": _is_chip,
    "framework": _is_framework,
}


def _data(row: Row) -> dict[str, Any]:
    """Return a row as plain data, its architecture as name and counts."""
    data = {name: getattr(row, name) for name in row.__dataclass_fields__}
    sizes = row.architecture
    data["architecture"] = (
        None
        if sizes is None
        else {
            "name": sizes.name,
            "params": sizes.params,
            "active_params": sizes.active_params,
        }
    )
    return data


def take(args: argparse.Namespace, catalog: Catalog) -> None:
    """Keep a user's measurements, and say what was taken.

    Raises:
        CatalogError: the file cannot be read, or holds no measurements.
    """
    from mofang.catalog.measurements import import_measurements  # noqa: PLC0415

    found = import_measurements(Path(args.name), home() / "catalog", catalog)
    if args.output != "table":
        problems = [str(problem) for problem in found.problems]
        counts = {"new": found.new, "known": found.known, "unmatched": found.unmatched}
        emit({"task": found.task, "kept_in": str(found.kept_in), **counts, "problems": problems}, args.output)
        return
    _warn(found.problems)
    line(f"{found.new} new {found.task} measurements in {found.kept_in}")
    parts = {
        f"{found.known} were there already": found.known,
        f"{found.unmatched} name no chip of the catalogue, so no plan uses them": found.unmatched,
        f"{len(found.problems)} lines could not be read": len(found.problems),
    }
    for text, count in parts.items():
        if count:
            line(text)


def _warn(problems: Sequence[Problem]) -> None:
    for problem in problems[:_PROBLEMS]:
        note(f"left out: {problem}")
    if len(problems) > _PROBLEMS:
        note(f"left out: {len(problems) - _PROBLEMS} more")
