"""``mofang simulate recovery --plot``: a bar for each practice and size, cut by where the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.errors import UsageError
from mofang.report.theme import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mofang.recovery.simulation import Study

__all__ = ["check_waste_picture", "write_waste_picture"]

_SUFFIXES = (".png", ".svg", ".pdf")
_DPI = 160
_ROW = 0.42  # inches of a bar and the gap under it
_COLOURS = {
    "snapshots": "#2563eb",
    "detection": "#f59e0b",
    "replacement": "#ea580c",
    "restart": "#dc2626",
    "redone work": "#7c3aed",
    "waiting for nodes": "#475569",
    "fewer nodes": "#94a3b8",
}


def check_waste_picture(path: Path) -> Path:
    """Return the path of a picture that can be written.

    Raises:
        UsageError: its format is unknown, or its folder is not there.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{path}: a picture ends with {', '.join(_SUFFIXES)}", hint="--plot waste.png")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: there is no such folder", hint="make it, or write the picture elsewhere")
    return path


def write_waste_picture(path: Path, found: Sequence[Study]) -> None:
    """Draw the lost part of the time, a panel for each size.

    Raises:
        UsageError: the picture cannot be written.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - heavy, and only drawing needs it
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    sizes = list(dict.fromkeys(one.devices for one in found))
    most = max(sum(one.devices == size for one in found) for size in sizes)
    with rc_context({**LIGHT.settings(), "axes.grid.axis": "x"}):
        figure = Figure(figsize=(8.5, 0.9 + len(sizes) * (0.75 + _ROW * most)), layout="constrained")
        for place, size in enumerate(sizes, 1):
            axes = figure.add_subplot(len(sizes), 1, place)
            _bars(axes, [one for one in found if one.devices == size], LIGHT)
            axes.set_title(f"{size:,} devices")
        handles = [Patch(color=colour, label=cause) for cause, colour in _COLOURS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        try:
            figure.savefig(path, dpi=_DPI)
        except OSError as error:
            raise UsageError(f"{path}: it cannot be written: {error.strerror}", hint="is it writable?") from error


def _bars(axes: Axes, rows: Sequence[Study], theme: Theme) -> None:
    """Draw one bar a practice, the first on top, with its ETTR and confidence interval at its end."""
    from matplotlib.ticker import PercentFormatter  # noqa: PLC0415 - heavy, and only drawing needs it

    lost = [1.0 - one.ettr for one in rows]
    for place, one in enumerate(rows):
        left = 0.0
        for cause, colour in _COLOURS.items():
            axes.barh(place, one.losses[cause], left=left, color=colour, height=0.6)
            left += one.losses[cause]
        half = (one.ettr_95[1] - one.ettr_95[0]) / 2.0
        axes.errorbar(1.0 - one.ettr, place, xerr=half, color=theme.ink, capsize=3, linewidth=1.0)
        axes.annotate(
            f"ETTR {one.ettr:.2%}", (1.0 - one.ettr + half, place), (6, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(rows)), [one.practice for one in rows])
    axes.invert_yaxis()
    axes.set_xlim(0.0, max(lost) * 1.28)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set_xlabel("part of the time lost (simulated)")
