"""Names beside the points of a picture, placed so that none lies on another, on a point or on the frame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

    from mofang.report.theme import Theme

__all__ = ["Label", "place_labels"]

_SIZE = 8.5  # points
_CLEAR = 13.0  # pixels around a point in which nothing crosses a line to it
_AIR = 2.0  # pixels between a name and what is beside it
# Where a name may stand beside its point: offsets in points, and how it is aligned; the first that is free is taken.
_PLACES = (
    (9, 0, "left", "center"),
    (-9, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (7, 6, "left", "bottom"),
    (-7, 6, "right", "bottom"),
    (7, -6, "left", "top"),
    (-7, -6, "right", "top"),
    (16, 17, "left", "bottom"),
    (-16, 17, "right", "bottom"),
    (16, -17, "left", "top"),
    (-16, -17, "right", "top"),
    (0, 26, "center", "bottom"),
    (0, -26, "center", "top"),
    (20, 36, "left", "bottom"),
    (-20, 36, "right", "bottom"),
    (20, -36, "left", "top"),
    (-20, -36, "right", "top"),
    (0, 46, "center", "bottom"),
    (0, -46, "center", "top"),
)
_NEAR = 4  # of these places; from the others a line leads to the point


@dataclass(frozen=True, slots=True)
class Label:
    """A point with its name; where there is no room for the name, ``short`` stands there, or nothing."""

    x: float
    y: float
    name: str
    short: str
    strong: bool = False


def place_labels(figure: Figure, axes: Axes, labels: Sequence[Label], theme: Theme) -> int:
    """Write the names, the most important first; return how many stand there in full.

    The figure must have its final size, limits and scales.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - heavy, and only drawing needs it
    from matplotlib.transforms import Bbox  # noqa: PLC0415

    if not hasattr(figure.canvas, "get_renderer"):
        FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    points = axes.transData.transform([point for line in axes.lines for point in _xy(line)])
    radius = 4.5 * figure.dpi / 72.0
    taken = [Bbox.from_bounds(x - radius, y - radius, 2 * radius, 2 * radius) for x, y in points]
    taken += [box for line in axes.lines if line.get_drawstyle() != "default" for box in _steps(axes, line)]
    full = 0
    for label in labels:
        for text in (label.name, label.short):
            boxes = _placed(axes, label, text, taken, theme) if text else ()
            if boxes:
                taken += boxes
                full += text == label.name
                break
    return full


def _xy(line: Line2D) -> list[tuple[float, float]]:
    return list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))  # type: ignore[arg-type]


def _steps(axes: Axes, line: Line2D) -> Iterator[Bbox]:
    """Yield the level parts of a line of steps, in pixels."""
    from matplotlib.transforms import Bbox  # noqa: PLC0415 - heavy, and only drawing needs it

    corners = axes.transData.transform(_xy(line))
    for (x, y), (beyond, _) in itertools.pairwise(corners):
        yield Bbox.from_extents(x, y - 1.0, beyond, y + 1.0)


def _placed(axes: Axes, label: Label, text: str, taken: Sequence[Bbox], theme: Theme) -> list[Bbox]:
    """Write a text at the first free place; return the boxes that it and its line take, none where no place is free."""
    from matplotlib.text import Text  # noqa: PLC0415 - heavy, and only drawing needs it

    frame = axes.get_window_extent().padded(-_AIR)
    for place in range(len(_PLACES)):
        written = _written(axes, label, text, place, theme)
        written.get_window_extent()  # this gives the text its position
        box = Text.get_window_extent(written).padded(_AIR)  # without the line to its point
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        lead = _leader(axes, label, box) if place >= _NEAR else []
        if inside and not any(one.overlaps(other) for one in (box, *lead) for other in taken):
            return [box, *lead]
        written.remove()
    return []


def _leader(axes: Axes, label: Label, box: Bbox) -> list[Bbox]:
    """Return small boxes along the line from a text to its point, in pixels, all but its ends."""
    from matplotlib.transforms import Bbox  # noqa: PLC0415 - heavy, and only drawing needs it

    x, y = axes.transData.transform((label.x, label.y))
    across, up = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
    length = math.hypot(across - x, up - y)
    parts = [step / 8.0 for step in range(1, 8) if length * step / 8.0 > _CLEAR]
    return [Bbox.from_bounds(x + (across - x) * part - 1.0, y + (up - y) * part - 1.0, 2.0, 2.0) for part in parts]


def _written(axes: Axes, label: Label, text: str, place: int, theme: Theme) -> Annotation:
    across, up, align, valign = _PLACES[place]
    arrow = {
        "arrowstyle": "-", "color": theme.muted, "linewidth": 0.6, "alpha": 0.7, "shrinkA": 0, "shrinkB": 3,
        "relpos": ({"left": 0.0, "right": 1.0}.get(align, 0.5), {"bottom": 0.0, "top": 1.0}.get(valign, 0.5)),
    }  # fmt: skip
    written = axes.annotate(
        text,
        (label.x, label.y),
        xytext=(across, up),
        textcoords="offset points",
        ha=align,
        va=valign,
        fontsize=_SIZE,
        color=theme.ink if label.strong else theme.muted,
        fontweight="bold" if label.strong else "normal",
        arrowprops=arrow if place >= _NEAR else None,
    )
    written.set_in_layout(False)
    return written
