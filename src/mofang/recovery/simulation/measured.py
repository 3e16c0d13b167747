"""Delays that were measured, taken from what the benchmarks print.

``python -m mofang.recovery.simulation.measured NAME=FILE:KEY.KEY ...`` reads a figure from each benchmark's JSON output
and writes ``data/measured_delays.yaml`` with the command, the date and the machine that gave it: the file's own
``command``, ``date`` and ``machine`` where it has them. Names: see ``NAMES``. What is not named stays as it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mofang.clock import SystemClock, utc_text
from mofang.errors import DataError, UsageError

__all__ = ["NAMES", "Measured", "main", "measured_delays"]

NAMES: Mapping[str, str] = {
    "snapshot_stall_s": "training's halt for one snapshot",
    "kill_to_step_s": "from a worker's death to the next completed step, with a warm standby",
    "hang_detection_s": "from a worker's last sign of life until it is known to hang",
    "peer_s_per_gb": "seconds to load a gigabyte of state from a peer",
}
_FILE = "data/measured_delays.yaml"
_HEADER = """\
# Written by `python -m mofang.recovery.simulation.measured NAME=FILE:KEY.KEY ...` from the benchmarks' JSON output.
# What is not here is assumed, as practices.yaml says.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A figure, and what gave it."""

    value: float
    command: str
    date: str
    machine: str = ""

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        where = f", {self.machine}" if self.machine else ""
        return f"{self.value:.3g} measured by `{self.command}` on {self.date}{where}"


@cache
def measured_delays() -> Mapping[str, Measured]:
    """Return what was measured, by name; read once."""
    text = resources.files("mofang.recovery.simulation").joinpath(_FILE).read_text(encoding="utf-8")
    return {name: Measured(**row) for name, row in (yaml.safe_load(text) or {}).items()}


def main(words: list[str]) -> int:
    """Take the figures that were named and write the file.

    Raises:
        UsageError: a name is not known, or no file and key were given.
        DataError: a file has no such figure.
    """
    if not words:
        raise UsageError("nothing is named", hint=f"say NAME=FILE:KEY.KEY; names: {', '.join(NAMES)}")
    found = dict(measured_delays()) | dict(map(_taken, words))
    rows = {name: asdict(found[name]) for name in NAMES if name in found}
    target = Path(__file__).parent / _FILE
    target.write_text(_HEADER + yaml.safe_dump(rows, sort_keys=False), encoding="utf-8")
    return 0


def _taken(word: str) -> tuple[str, Measured]:
    name, _, rest = word.partition("=")
    file, _, keys = rest.rpartition(":")
    if name not in NAMES or not file or not keys:
        raise UsageError(f"{word!r} names no figure", hint=f"say NAME=FILE:KEY.KEY; names: {', '.join(NAMES)}")
    return name, read_figure(Path(file), keys)


def read_figure(path: Path, keys: str) -> Measured:
    """Return a figure from a benchmark's output.

    Args:
        path: of the JSON file.
        keys: of the figure, from the outside to the inside, with dots between; numbers are places in a list.

    Raises:
        DataError: there is no such figure, or it is not a number above zero.
    """
    try:
        data = _document(path.read_text(encoding="utf-8"))
        value: Any = data
        for key in keys.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        number = float(value)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"{path} has no figure {keys}: {error}", hint="look into the benchmark's JSON output"
        ) from error
    if not 0.0 < number < float("inf"):
        raise DataError(f"{keys} of {path} is {number}", hint="a delay is a number above zero")
    about = data if isinstance(data, dict) else {}
    return Measured(
        value=float(f"{number:.4g}"),
        command=str(about.get("command", f"benchmarks/{path.stem}.py")),
        date=str(about.get("date", utc_text(SystemClock().now())[:10])),
        machine=str(about.get("machine", "")),
    )


def _document(text: str) -> Any:
    """Return the JSON of a whole file, or of its last line, below a table for people."""
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(text.strip().splitlines()[-1] if text.strip() else "")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
