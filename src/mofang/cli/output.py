"""How commands speak: results on stdout, progress on stderr, tables that fit the terminal.

Plain formatting of our own: ``rich`` alone takes longer to import than ``mofang ps`` may take.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from mofang.cli.columns import layout

__all__ = ["add_output_option", "coloured", "emit", "line", "note", "paint", "plain", "print_table", "terminal_width"]

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


def coloured(stream: TextIO) -> bool:
    """Whether colours belong on this stream: ``NO_COLOR`` forbids, ``FORCE_COLOR`` demands, else a terminal decides."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in {"", "0"}:
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """Return the text in a style (bold, dim, red, green, yellow, blue, cyan) where the stream shows colours."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if coloured(stream or sys.stdout) else text


def line(text: str = "", stream: TextIO | None = None) -> None:
    """Write one line of the result to stdout, or to another stream."""
    (stream or sys.stdout).write(f"{text}\n")


def note(text: str) -> None:
    """Write one line of progress to stderr, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Return the width in columns that output may take; None where nothing limits it, as in a pipe."""
    chosen = os.environ.get("COLUMNS", "")
    if chosen.isdigit() and int(chosen) > 0:
        return int(chosen)
    try:
        return os.get_terminal_size((stream or sys.stdout).fileno()).columns or None
    except (OSError, ValueError):
        return None


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None, stream: TextIO | None = None
) -> None:
    """Print rows under their headings on stdout, or on another stream.

    The table fits the terminal: wide columns are narrowed and their cells folded over several lines. In a pipe nothing
    is folded. Columns of quantities are aligned right.
    """
    if title:
        line(paint(title, "bold", stream), stream)
    heading, *body = layout(columns, rows, terminal_width(stream))
    line(paint(heading, "bold", stream), stream)
    for text in body:
        line(text, stream)


def plain(data: Any) -> Any:
    """Return domain values, mappings and sequences as what JSON and YAML know; what is not finite becomes null."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if isinstance(data, float):
        return data if data - data == 0 else None
    if data is None or isinstance(data, bool | int) or type(data) is str:
        return data
    if hasattr(data, "__dataclass_fields__"):
        from mofang.domain.codec import to_data  # noqa: PLC0415 - it loads pydantic, which a table never needs

        return plain(to_data(data))
    return str(data)


def emit(data: Any, output: str) -> None:
    """Print a result for programs on stdout.

    Args:
        data: a domain value, or mappings, sequences and scalars of them.
        output: ``json`` or ``yaml``.
    """
    if output == "json":
        import json  # noqa: PLC0415 - kept off the way to `mofang --help`

        line(json.dumps(plain(data), indent=2, ensure_ascii=False))
    else:
        import yaml  # noqa: PLC0415 - kept off the way to `mofang --help`

        sys.stdout.write(yaml.safe_dump(plain(data), sort_keys=False, allow_unicode=True))


def add_output_option(parser: argparse.ArgumentParser, choices: Sequence[str] = ("table", "json", "yaml")) -> None:
    """Give a command ``-o``: how its result is printed."""
    parser.add_argument(
        "-o", "--output", choices=choices, default=choices[0], help=f"how to print the result (default: {choices[0]})"
    )
