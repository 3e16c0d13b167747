"""``mofang fleet``: the hardware that plans are made for, as a table or as a fleet file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.cli import session
from mofang.cli.output import add_output_option, emit, print_table
from mofang.cli.parser import examples
from mofang.cli.settings import home
from mofang.units import show_bytes, show_rate

if TYPE_CHECKING:
    from mofang.domain.hardware import Pool

__all__ = ["configure", "execute"]

_COLUMNS = ("cluster", "devices", "a node", "device memory", "link in a node", "network", "host memory", "price/h")


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("what", choices=["show", "export"], help="a table, or a file for `mofang plan --fleet`")
    parser.add_argument("file", nargs="?", help="with `show`: a fleet file (default: what the backends see)")
    add_output_option(parser)
    parser.epilog = examples(
        "mofang fleet show",
        "mofang fleet export > fleet.yaml && mofang plan job.yaml --fleet fleet.yaml",
        "mofang fleet show fleet.yaml",
        exit_codes="0 done, 2 the file is wrong, 4 the controller cannot be reached",
    )


def execute(args: argparse.Namespace) -> int:
    """Print the pools of devices that matching reasons about."""
    pools = read_fleet(args.file) if args.file else _seen()
    if args.what == "export":
        from mofang.spec.fleet_file import fleet_to_yaml  # noqa: PLC0415 - only here

        sys.stdout.write(fleet_to_yaml(pools))
    elif args.output == "table":
        print_table(_COLUMNS, [_cells(pool) for pool in pools])
    else:
        emit(list(pools), args.output)
    return 0


def read_fleet(path: str) -> tuple[Pool, ...]:
    """Return the pools of a fleet file.

    Raises:
        SpecError: the file is wrong.
    """
    from mofang.catalog.knowledge import Catalog  # noqa: PLC0415 - tables are read where they are needed
    from mofang.spec.fleet_file import load_fleet_file  # noqa: PLC0415

    return load_fleet_file(Path(path), Catalog.load(home() / "catalog"))


def _seen() -> tuple[Pool, ...]:
    from mofang.catalog.knowledge import Catalog  # noqa: PLC0415
    from mofang.control.pools import fleet_pools  # noqa: PLC0415

    with session.connect() as client:
        return fleet_pools(client.fleet().nodes, Catalog.load(home() / "catalog"))


def _cells(pool: Pool) -> tuple[str, ...]:
    return (
        pool.cluster or "-",
        f"{pool.accelerator.name}:{pool.counts.maximum or pool.counts.minimum}",
        str(pool.devices_per_node),
        show_bytes(pool.accelerator.memory_bytes) if pool.accelerator.memory_bytes else "shared",
        show_rate(pool.intra.bandwidth),
        show_rate(pool.inter.bandwidth),
        show_bytes(pool.node_memory_bytes) if pool.node_memory_bytes else "-",
        "unknown" if pool.price_per_device_hour is None else f"{pool.price_per_device_hour:.2f}",
    )
