"""``mofang catalog``: the known chips, servers, models, prices and measurements, and the user's own among them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from mofang.catalog.knowledge import Catalog
from mofang.catalog.models import PublishedModel
from mofang.catalog.names import nearest
from mofang.cli import measurements, prices
from mofang.cli.output import add_output_option, emit, plain, print_table
from mofang.cli.parser import examples
from mofang.cli.settings import home
from mofang.domain.hardware import Accelerator, Server
from mofang.errors import CatalogError, UsageError
from mofang.units import show_bytes, show_count, show_rate

__all__ = ["configure", "execute"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the words and options of the command."""
    parser.epilog = examples(
        "mofang catalog accelerators",
        "mofang catalog show H100",
        "mofang catalog show path/to/config.json",
        "mofang catalog measurements --model llama-3.1-70b --accelerator H100",
        "mofang catalog import my-runs.csv",
        exit_codes="2  there is no such name, or a row of your own is wrong (file, line, column and why)",
    )
    parser.description = (
        f"{parser.description or 'the catalogue'}\n\nYour own rows: CSV or YAML files in "
        "$MOFANG_HOME/catalog/{accelerators,servers,models,prices}/ extend the catalogue, or replace rows by name."
    )
    parser.add_argument("what", choices=[*_TABLES, *_OTHERS, "show"], help="a table, or `show` for one name")
    parser.add_argument(
        "name", nargs="?", help="with `show`: a chip, a server, a model, or a config.json; with `import`: a CSV file"
    )
    measurements.configure(parser)
    add_output_option(parser)


def execute(args: argparse.Namespace) -> int:
    """Print a table, or everything known of one name.

    Raises:
        CatalogError: there is no such name, or a row of the user is wrong.
        UsageError: a name is missing, or one is given that is not needed.
    """
    _check(args)
    catalog = Catalog.load(home() / "catalog")
    if args.what == "show":
        _show(_found(catalog, args.name), args.output)
    elif args.what in _OTHERS:
        _OTHERS[args.what](args, catalog)
    else:
        _list(args.what, catalog, args.output)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.what == "show" and not args.name:
        raise UsageError("show what?", hint="give a name: `mofang catalog show H100`")
    if args.what == "import" and not args.name:
        raise UsageError("import what?", hint="give a CSV file: `mofang catalog import my-runs.csv`")
    if args.what not in {"show", "import"} and args.name:
        raise UsageError(f"{args.name!r} is one word too many", hint=f"`mofang catalog show {args.name}` shows one")
    measurements.check(args)


_OTHERS: dict[str, Callable[[argparse.Namespace, Catalog], None]] = {
    "prices": prices.show,
    "measurements": measurements.show,
    "import": measurements.take,
}


def _list(what: str, catalog: Catalog, output: str) -> None:
    values = getattr(catalog, what)
    if output == "table":
        columns, cells, remark = _TABLES[what]
        print_table(columns, [cells(value) for value in values], title=f"{len(values)} {what}{remark}")
    else:
        emit([_data(value) for value in values], output)


def _accelerator_cells(chip: Accelerator) -> list[str]:
    peaks = {precision.value: flops for precision, flops in chip.peak_flops.items()}
    return [
        chip.name,
        f"{chip.memory_bytes / 2**30:.0f} GiB" if chip.memory_bytes else "shared",
        show_rate(chip.memory_bandwidth),
        *(f"{peaks[dtype] / 1e12:,.4g}" if dtype in peaks else "-" for dtype in ("fp32", "bf16", "fp8")),
        show_rate(chip.scaleup_bandwidth) if chip.scaleup_bandwidth else "-",
        f"{chip.tdp_w:.0f}" if chip.tdp_w else "-",
        str(chip.year or "-"),
    ]


def _server_cells(server: Server) -> list[str]:
    network = server.network_bandwidth
    return [
        server.name,
        server.accelerator,
        str(server.num_accelerators),
        "-" if network is None else f"{network * 8 / 1e9:.0f} Gb/s",
        "-" if server.host_memory_bytes is None else show_bytes(server.host_memory_bytes),
        server.cooling or "-",
    ]


def _model_cells(model: PublishedModel) -> list[str]:
    sizes = model.architecture
    return [
        model.name,
        show_count(sizes.params),
        show_count(sizes.active_params) if sizes.moe else "-",
        str(sizes.layers),
        str(sizes.hidden),
        f"{sizes.heads}/{sizes.kv_heads}",
        f"{sizes.moe.num_experts}/{sizes.moe.top_k}" if sizes.moe else "-",
        str(sizes.vocab),
        str(sizes.max_sequence),
    ]


_TABLES: dict[str, tuple[Sequence[str], Callable[[Any], list[str]], str]] = {
    "accelerators": (
        ["NAME", "MEMORY", "BANDWIDTH", "FP32", "BF16", "FP8", "SCALE-UP", "WATTS", "YEAR"],
        _accelerator_cells,
        " (peaks in dense TFLOP/s, the scale-up link both ways together)",
    ),
    "servers": (["NAME", "ACCELERATOR", "CHIPS", "NETWORK/CHIP", "HOST MEMORY", "COOLING"], _server_cells, ""),
    "models": (
        ["NAME", "PARAMS", "ACTIVE", "LAYERS", "WIDTH", "HEADS/KV", "EXPERTS/TOP", "VOCAB", "SEQUENCE"],
        _model_cells,
        "",
    ),
}


def _found(catalog: Catalog, name: str) -> Any:
    """Return the value of that name, whichever table it is in; a path is read as a model."""
    if (chip := catalog.accelerator_table.find(name)) is not None:
        return chip
    if catalog.server_table.find(name) is not None:
        return catalog.server(name)
    if (model := catalog.model_table.find(name)) is not None:
        return model
    try:
        return catalog.model(name)
    except CatalogError as error:
        if error.data.get("kind") != "model":  # the path exists, and what it holds is wrong
            raise
    raise _unknown(catalog, name)


def _unknown(catalog: Catalog, name: str) -> CatalogError:
    known = chain(catalog.accelerator_table.names(), catalog.server_table.names(), catalog.model_table.names())
    near = nearest(name, known)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`mofang catalog models` lists the models"
    return CatalogError(f"the catalogue has no {name!r}, and there is no such file", hint=hint, data={"name": name})


def _data(value: Any) -> dict[str, Any]:
    """Return a value as plain data; a model also with the counts that follow from its architecture."""
    data: dict[str, Any] = plain(value)
    sizes = getattr(value, "architecture", value)
    if hasattr(sizes, "active_params"):
        data |= {"params": sizes.params, "active_params": sizes.active_params}
    return data


def _show(value: Any, output: str) -> None:
    data = _data(value)
    if output == "table":
        print_table(["FIELD", "VALUE"], _fields(data))
    else:
        emit(data, output)


def _fields(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the fields as text, those of inner values behind the outer one's name."""
    found: list[tuple[str, str]] = []
    for field, value in data.items():
        if isinstance(value, Mapping):
            found += _fields(value, f"{prefix}{field}.")
        elif value not in (None, ""):
            found.append((f"{prefix}{field}", _text(f"{prefix}{field}", value)))
    return found


def _text(field: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    for ending, form in _QUANTITIES.items():
        if field.startswith(ending) or field.endswith(ending):
            return form(value)
    return f"{value:.12g}"


_QUANTITIES: dict[str, Callable[[float], str]] = {
    "peak_flops.": lambda value: f"{value / 1e12:,.6g} TFLOP/s",
    "host_memory_bytes": show_bytes,
    "memory_bytes": lambda value: f"{value / 2**30:.4g} GiB",  # chips report powers of two
    "_bandwidth": show_rate,
}
