"""Pictures over steps and over time: loss, throughput, memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from mofang.report.comparisons import Comparison
from mofang.report.steps import StepPoint
from mofang.report.summary import Summary
from mofang.report.theme import Theme
from mofang.report.words import quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_loss", "draw_memory", "draw_throughput", "legend_above", "new_figure", "running_mean", "time_axis"]

_WIDTH = 7.2  # inches; with 10-point text this stays readable on a phone


def new_figure(height: float) -> Figure:
    """Return an empty figure of the one width, this many inches high."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and only drawing needs it

    return Figure(figsize=(_WIDTH, height), layout="constrained")


def legend_above(axes: Axes, columns: int = 4) -> None:
    """Put the legend above the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=columns,
            columnspacing=1.4,
            handlelength=1.5,
            borderaxespad=0.2,
        )


def time_axis(axes: Axes, seconds: float) -> None:
    """Label the x axis, which holds seconds since the start, in the unit that suits its length."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415 - heavy, and only drawing needs it

    unit, name = (1, "seconds") if seconds < 300 else (60, "minutes") if seconds < 3 * 3600 else (3600, "hours")
    axes.set_xlabel(f"{name} since the job started")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}"))
    ticks = MaxNLocator(nbins=8, steps=[1, 2, 3, 5, 10]).tick_values(0, seconds / unit)
    axes.set_xticks([tick * unit for tick in ticks if 0 <= tick * unit <= seconds])
    axes.set_xlim(0, seconds)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean over ``window`` values around each, fewer at the ends."""
    before, after = (window - 1) // 2, window // 2
    sums = list(accumulate(values, initial=0.0))
    bounds = ((max(0, index - before), min(len(values), index + after + 1)) for index in range(len(values)))
    return [(sums[high] - sums[low]) / (high - low) for low, high in bounds]


def _draw_noisy(axes: Axes, at: Sequence[float], values: Sequence[float], theme: Theme, *, name: str | None) -> None:
    """Draw many noisy values as a faint line and their running mean as a strong one; few as they are."""
    window = len(values) // 50
    if window < 3:
        axes.plot(at, values, color=theme.measured, linewidth=1.8, marker="o" if len(values) == 1 else None, label=name)
        return
    axes.plot(at, values, color=theme.measured, alpha=0.28, linewidth=0.8)
    label = f"{name} (mean of {window} steps)" if name else None
    axes.plot(at, running_mean(values, window), color=theme.measured, linewidth=1.9, label=label)


def draw_loss(summary: Summary, theme: Theme) -> Figure:
    """Draw training and validation loss over steps; a step that was made twice is shown once."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - heavy, and only drawing needs it

    figure = new_figure(3.7)
    axes = figure.add_subplot()
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
    points = [point for point in summary.curve if point.loss is not None]
    _draw_noisy(axes, [point.step for point in points], [point.loss or 0.0 for point in points], theme, name="training")
    if summary.validation:
        at, values = zip(*summary.validation, strict=True)
        axes.plot(at, values, "o-", color=theme.predicted, linewidth=1.4, markersize=5, label="validation")
        axes.annotate(
            f"{values[-1]:.2f}",
            (at[-1], values[-1]),
            textcoords="offset points",
            xytext=(0, 9),
            ha="right",
            color=theme.predicted,
            fontweight="bold",
        )
    _mark_faults_by_step(axes, summary, theme)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.margins(x=0.02)
    axes.set_xlim(left=0)
    legend_above(axes)
    return figure


def _mark_faults_by_step(axes: Axes, summary: Summary, theme: Theme) -> None:
    for index, recovery in enumerate(summary.recoveries):
        axes.axvline(
            recovery.step,
            color=theme.fault,
            linewidth=1.3,
            linestyle=(0, (4, 2)),
            label="fault" if index == 0 else None,
        )
        if recovery.loaded_step is not None and recovery.loaded_step < recovery.step:
            axes.axvspan(
                recovery.loaded_step,
                recovery.step,
                color=theme.redone,
                alpha=0.6,
                linewidth=0,
                label="steps made again" if index == 0 else None,
            )


def draw_throughput(summary: Summary, theme: Theme) -> Figure:
    """Draw tokens or images per second over time, beside the prediction and its interval."""
    what = "tokens" if summary.image_tokens is None else "images"
    return _over_time(
        summary,
        theme,
        field="tokens_per_s",
        name="throughput",
        unit=f"{what}/s",
        label=f"{what} per second",
        divisor=summary.image_tokens or 1,
    )


def draw_memory(summary: Summary, theme: Theme) -> Figure:
    """Draw a worker's memory over time, beside the prediction."""
    return _over_time(
        summary, theme, field="memory_bytes", name="memory of a worker", unit="bytes", label="memory of a worker"
    )


def _over_time(
    summary: Summary, theme: Theme, *, field: str, name: str, unit: str, label: str, divisor: int = 1
) -> Figure:
    from matplotlib.ticker import FuncFormatter  # noqa: PLC0415 - heavy, and only drawing needs it

    figure = new_figure(3.3)
    axes = figure.add_subplot()
    _predicted_line(axes, next((row for row in summary.comparisons if row.name == name), None), theme)
    for index, points in enumerate(_by_generation(summary.points, field)):
        _draw_noisy(
            axes,
            [point.time - summary.start for point in points],
            [getattr(point, field) / divisor for point in points],
            theme,
            name="measured" if index == 0 else None,
        )
    _mark_recoveries(axes, summary, theme)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.08)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value, unit).removesuffix(f" {unit}")))
    time_axis(axes, max(summary.end - summary.start, 1.0))
    legend_above(axes)
    return figure


def _predicted_line(axes: Axes, row: Comparison | None, theme: Theme) -> None:
    if row is None or row.predicted is None:
        return
    if row.low is not None and row.high is not None:
        axes.axhspan(row.low, row.high, color=theme.predicted, alpha=0.14, linewidth=0, label="90 % interval")
    axes.axhline(row.predicted, color=theme.predicted, linewidth=1.6, linestyle=(0, (5, 2)), label="predicted")


def _by_generation(points: Sequence[StepPoint], field: str) -> list[list[StepPoint]]:
    """Return the points that report the field, a list a generation: no line is drawn over a gap."""
    lines: dict[tuple[int, int], list[StepPoint]] = {}
    for point in points:
        if getattr(point, field) is not None:
            lines.setdefault(point.generation, []).append(point)
    return list(lines.values())


def _mark_recoveries(axes: Axes, summary: Summary, theme: Theme) -> None:
    for index, recovery in enumerate(summary.recoveries):
        end = summary.end if recovery.resumed_at is None else recovery.resumed_at
        axes.axvspan(
            recovery.fault_at - summary.start,
            end - summary.start,
            color=theme.fault,
            alpha=0.16,
            linewidth=0,
            label="fault and recovery" if index == 0 else None,
        )
