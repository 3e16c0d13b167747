"""Write a job's report: ``report.html`` and its pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.domain.events import Event
from mofang.domain.job import Job
from mofang.errors import UsageError
from mofang.report.bars import draw_prediction, draw_timeline
from mofang.report.curves import draw_loss, draw_memory, draw_throughput
from mofang.report.page import Picture, page
from mofang.report.summary import Summary, summarise
from mofang.report.theme import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_report"]

_DPI = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chart:
    name: str  # of the PNG file
    heading: str
    caption: str
    draw: Callable[[Summary, Theme], Figure]
    wanted: Callable[[Summary], bool]


_CHARTS = (
    _Chart(
        name="prediction",
        heading="Predicted beside measured, in one picture",
        caption="Each quantity relative to its prediction; the band is the range that is to hold 90 % of outcomes.",
        draw=draw_prediction,
        wanted=lambda summary: any(row.predicted and row.measured is not None for row in summary.comparisons),
    ),
    _Chart(
        name="loss",
        heading="Loss",
        caption="Steps that were made again after a fault are shown once.",
        draw=draw_loss,
        wanted=lambda summary: any(point.loss is not None for point in summary.curve),
    ),
    _Chart(
        name="timeline",
        heading="Timeline",
        caption="Every second belongs to one activity. Dashed lines are faults, diamonds are checkpoints.",
        draw=draw_timeline,
        wanted=lambda summary: summary.end > summary.start,
    ),
    _Chart(
        name="throughput",
        heading="Throughput",
        caption="Of the whole job.",
        draw=draw_throughput,
        wanted=lambda summary: any(point.tokens_per_s is not None for point in summary.points),
    ),
    _Chart(
        name="memory",
        heading="Memory",
        caption="As the first worker reports it.",
        draw=draw_memory,
        wanted=lambda summary: any(point.memory_bytes is not None for point in summary.points),
    ),
)


def write_report(job: Job, events: Sequence[Event], directory: Path) -> Path:
    """Write ``report.html`` and a PNG a picture, and return the path of the page.

    The page holds its pictures itself: it can be sent or moved alone. A picture for which the job reported nothing is
    left out.

    Args:
        job: the job, finished or not.
        events: all its events, in any order.
        directory: where to write; made if need be.

    Raises:
        UsageError: matplotlib is not installed, or the directory cannot be written.
    """
    summary = summarise(job, events)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        pictures = [_picture(chart, summary, directory) for chart in _CHARTS if chart.wanted(summary)]
        path = directory / "report.html"
        path.write_text(page(job, summary, pictures), encoding="utf-8")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the report needs {error.name}, which is not installed", hint="pip install 'mofang[plot]'"
        ) from error
    except OSError as error:
        raise UsageError(
            f"cannot write the report to {directory}: {error.strerror or error}",
            hint="choose another folder with --out",
        ) from error
    return path


def _picture(chart: _Chart, summary: Summary, directory: Path) -> Picture:
    light = _png(chart, summary, LIGHT)
    (directory / f"{chart.name}.png").write_bytes(light)
    dark = _png(chart, summary, DARK)
    return chart.heading, chart.caption, base64.b64encode(light).decode(), base64.b64encode(dark).decode()


def _png(chart: _Chart, summary: Summary, theme: Theme) -> bytes:
    import matplotlib as mpl  # noqa: PLC0415 - heavy, and only drawing needs it
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

    with mpl.rc_context(theme.settings()):
        figure = chart.draw(summary, theme)
        FigureCanvasAgg(figure)
        image = io.BytesIO()
        figure.savefig(image, dpi=_DPI, format="png")
    return image.getvalue()
