"""Pictures made of bars: the timeline with its faults, and predicted beside measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mofang.report.comparisons import Comparison
from mofang.report.curves import legend_above, new_figure, time_axis
from mofang.report.recoveries import Recovery
from mofang.report.summary import Summary
from mofang.report.theme import Theme
from mofang.report.timeline import Activity
from mofang.report.words import difference, quantity
from mofang.units import show_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_prediction", "draw_timeline", "recovery_parts"]

_MOST_RECOVERIES = 6  # rows in the picture; the table of the report lists them all


def draw_timeline(summary: Summary, theme: Theme) -> Figure:
    """Draw where the time went: generations, activities, checkpoints; below, each recovery in its parts."""
    shown = summary.recoveries[:_MOST_RECOVERIES]
    rows = max(1, len(summary.generations))
    heights = [1.0 + 0.32 * (rows + 2), *([0.9 + 0.5 * len(shown)] if shown else [])]
    figure = new_figure(sum(heights) + 0.3)
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_whole(panels[0], summary, theme)
    if shown:
        _draw_recoveries(panels[1], shown, theme)
    return figure


def _draw_whole(axes: Axes, summary: Summary, theme: Theme) -> None:
    _draw_activities(axes, summary, theme)
    for row, (since, until, name) in enumerate(summary.generations, start=1):
        axes.barh(row, until - since, left=since - summary.start, height=0.5, color=theme.grid, edgecolor=theme.muted)
        axes.annotate(
            name,
            (since - summary.start, row),
            textcoords="offset points",
            xytext=(5, 0),
            va="center",
            fontsize=8.5,
        )
    bottom = len(summary.generations) + 1
    times = [time - summary.start for time, _ in summary.checkpoints]
    axes.plot(times, [bottom] * len(times), "d", color=theme.activities[Activity.CHECKPOINT], markersize=6)
    for recovery in summary.recoveries:
        axes.axvline(recovery.fault_at - summary.start, color=theme.fault, linewidth=1.4, linestyle=(0, (3, 2)))
    middle = (1 + len(summary.generations)) / 2
    axes.set_yticks([0, middle, bottom], ["time", "workers", "checkpoints"])
    axes.set_ylim(bottom + 0.5, -0.6)
    axes.grid(visible=False)
    time_axis(axes, max(summary.end - summary.start, 1.0))
    legend_above(axes)


def _draw_activities(axes: Axes, summary: Summary, theme: Theme) -> None:
    for activity in Activity:
        pieces = [piece for piece in summary.pieces if piece.activity is activity]
        if not pieces:
            continue
        bars = [(piece.start - summary.start, piece.end - piece.start) for piece in pieces]
        share = summary.shares.get(activity, 0.0)
        axes.broken_barh(
            bars,
            (-0.35, 0.7),
            facecolors=theme.activities[activity],
            linewidth=0,
            label=f"{activity.value} {quantity(share, 'fraction')}",
        )


def recovery_parts(recovery: Recovery) -> tuple[tuple[str, float], ...]:
    """Return the parts of a recovery that took place, in order, in seconds; together they last to its last part."""
    marks = (
        ("notice", recovery.detected_at),
        ("stop and restart", recovery.restarted_at),
        ("start and load", recovery.loaded_at),
        ("first step", recovery.resumed_at),
        ("catch up", recovery.caught_up_at),
    )
    parts, before = [], recovery.fault_at
    for name, mark in marks:
        if mark is not None:
            parts.append((name, max(0.0, mark - before)))
            before = max(before, mark)
    return tuple(parts)


def _draw_recoveries(axes: Axes, shown: Sequence[Recovery], theme: Theme) -> None:
    colours = {
        "notice": theme.fault,
        "stop and restart": theme.activities[Activity.START],
        "start and load": theme.activities[Activity.CHECKPOINT],
        "first step": theme.activities[Activity.COMPUTE],
        "catch up": theme.activities[Activity.REDONE],
    }
    named: set[str] = set()
    longest = 0.0
    for row, recovery in enumerate(shown):
        left = 0.0
        for name, seconds in recovery_parts(recovery):
            label = None if name in named else name
            axes.barh(row, seconds, left=left, height=0.6, color=colours[name], label=label, linewidth=0)
            named.add(name)
            left += seconds
        total = _recovery_text(recovery)
        axes.annotate(total, (left, row), textcoords="offset points", xytext=(6, 0), va="center", fontsize=9)
        longest = max(longest, left)
    axes.set_yticks(range(len(shown)), [f"fault at\nstep {recovery.step}" for recovery in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(longest, 0.1) * 1.42)
    axes.set_xlabel("seconds since the fault")
    axes.grid(visible=False)
    axes.grid(visible=True, axis="x")
    legend_above(axes, columns=5)


def _recovery_text(recovery: Recovery) -> str:
    if recovery.seconds is None:
        return "never went on"
    text = f"{show_duration(recovery.seconds)} until it went on"
    if recovery.caught_up_at is None or recovery.caught_up_at <= recovery.fault_at + recovery.seconds:
        return text
    return f"{text},\n{show_duration(recovery.caught_up_at - recovery.fault_at)} to be back at step {recovery.step}"


def draw_prediction(summary: Summary, theme: Theme) -> Figure:
    """Draw each measured quantity relative to its prediction, with the interval."""
    rows = [row for row in summary.comparisons if row.predicted]
    figure = new_figure(1.3 + 0.62 * max(1, len(rows)))
    axes = figure.add_subplot()
    for index, row in enumerate(rows):
        _draw_comparison(axes, index, row, theme)
    axes.axvline(1.0, color=theme.predicted, linewidth=1.6, linestyle=(0, (5, 2)), label="predicted", zorder=1)
    axes.set_yticks(range(len(rows)), [row.name.replace(" of a ", "\nof a ") for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    low, high = _relative_range(rows)
    axes.set_xlim(low, high)
    axes.set_xlabel("measured / predicted")
    axes.grid(visible=False)
    axes.grid(visible=True, axis="x")
    legend_above(axes)
    _beside(axes, -0.62, "predicted → measured", color=theme.muted)
    return figure


def _draw_comparison(axes: Axes, index: int, row: Comparison, theme: Theme) -> None:
    predicted = row.predicted or 1.0
    if row.low is not None and row.high is not None:
        span = (row.high - row.low) / predicted
        label = "90 % interval" if index == 0 else None
        axes.barh(index, span, left=row.low / predicted, height=0.34, color=theme.predicted, alpha=0.25, label=label)
    if row.measured is not None:
        label = "measured" if index == 0 else None
        axes.plot([row.measured / predicted], [index], "o", color=theme.measured, markersize=9, label=label, zorder=3)
    text = f"{quantity(row.predicted, row.unit)} → {quantity(row.measured, row.unit)}  {difference(row.error)}"
    _beside(axes, index, text)


def _beside(axes: Axes, row: float, text: str, **style: Any) -> None:
    """Write to the right of the axes, at the height of a row."""
    axes.annotate(
        text,
        (1.0, row),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        xytext=(8, 0),
        va="center",
        fontsize=9,
        annotation_clip=False,
        **style,
    )


def _relative_range(rows: Sequence[Comparison]) -> tuple[float, float]:
    """Return the range of the axis: everything drawn, 1 in it, and some air."""
    values = [1.0]
    for row in rows:
        values += [value / (row.predicted or 1.0) for value in (row.low, row.high, row.measured) if value is not None]
    low, high = min(values), max(values)
    air = 0.08 * max(high - low, 0.1)
    return max(0.0, low - air), high + air
