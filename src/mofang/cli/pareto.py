"""``mofang plan --plot``: a picture of what faster costs: every plan by time and money, and the front marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.cli.labels import Label, place_labels
from mofang.domain.plan import MatchResult, Plan
from mofang.errors import UsageError
from mofang.report.layouts import chip_text, cuts_text
from mofang.report.theme import LIGHT, Theme
from mofang.report.words import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["check_picture", "time_ticks", "write_picture"]

_SUFFIXES = (".png", ".svg", ".pdf")
_SIZE = (8.0, 5.0)  # inches
_DPI = 160
_WIDE = 8.0  # times from the smallest to the largest value, beyond which an axis is logarithmic
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
# Round times, and how they are told: what stands along an axis of time.
_TICKS = (
    *((seconds, f"{seconds:g} s") for seconds in (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)),
    *((count * _MINUTE, f"{count} min") for count in (1, 2, 5, 10, 20, 30)),
    *((count * _HOUR, f"{count} h") for count in (1, 2, 3, 6, 12)),
    *((count * _DAY, plural(count, "day")) for count in (1, 2, 4, 7, 14, 30, 60, 120, 365)),
)
_MOST_TICKS = 9


@dataclass(frozen=True, slots=True)
class _Axis:
    """What is drawn along an axis: its label, and the value of a plan (None: unknown)."""

    label: str
    value: Callable[[Plan], float | None]
    is_time: bool = False  # in seconds, told in round minutes, hours and days


@dataclass(frozen=True, slots=True)
class _Point:
    x: float
    y: float
    plan: Plan
    rank: int | None  # place in the table, from 1


def check_picture(path: Path) -> Path:
    """Return the path of a picture that can be written.

    Raises:
        UsageError: its format is unknown, or its folder is not there.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{path}: a picture ends with {', '.join(_SUFFIXES)}", hint="--plot plans.png")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: there is no such folder", hint="make it, or write the picture elsewhere")
    return path


def write_picture(path: Path, name: str, result: MatchResult, *, currency: str) -> None:
    """Draw the plans and the front: time against money, or energy where there is no price.

    Args:
        path: ``.png``, ``.svg`` or ``.pdf``.
        name: of the scenario.
        result: the plans.
        currency: of the costs.

    Raises:
        UsageError: the picture cannot be written, or nothing is predicted that could be drawn.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - heavy, and only drawing needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    across, up = _axes(result, currency)
    points = _points(result, across, up)
    if not points:
        raise UsageError("nothing is known of these plans that could be drawn", hint="leave --plot out")
    with rc_context(LIGHT.settings()):
        figure = Figure(figsize=_SIZE, layout="constrained", dpi=_DPI)
        axes = figure.add_subplot()
        front = _lowest(points)
        _draw(axes, front, [point for point in points if point not in front], LIGHT)
        axes.set_title(_title(name, result, points))
        axes.set_xlabel(across.label)
        axes.set_ylabel(up.label)
        _scale(axes, points, is_time=across.is_time)
        place_labels(figure, axes, _named(points, front), LIGHT)
        try:
            figure.savefig(path, dpi=_DPI)
        except OSError as error:
            raise UsageError(
                f"{path}: the picture cannot be written: {error.strerror}", hint="is it writable?"
            ) from error


def _axes(result: MatchResult, currency: str) -> tuple[_Axis, _Axis]:
    """Return time and money, or energy where no price is known; for a service, time a token and what one costs."""
    plans = [*result.plans, *result.front]
    if any(plan.service is not None for plan in plans):
        across = _Axis("time per output token under load, ms", lambda plan: _served(plan, "tpot_s", 1e3))
        if any(_served(plan, "cost_per_million_tokens") is not None for plan in plans):
            return across, _Axis(
                f"cost of a million tokens, {currency}", lambda p: _served(p, "cost_per_million_tokens")
            )
        return across, _Axis("tokens/s of each device", _tokens_per_device)
    across = _Axis("time to finish", lambda plan: plan.estimate.total_time_s if plan.estimate else None, is_time=True)
    if any(plan.estimate is not None and plan.estimate.cost is not None for plan in plans):
        return across, _Axis(f"cost, {currency}", lambda plan: plan.estimate.cost if plan.estimate else None)
    if any(plan.estimate is not None and plan.estimate.energy_j is not None for plan in plans):
        return across, _Axis("energy, kWh", _kilowatt_hours)
    return across, _Axis("devices", lambda plan: float(plan.placement.num_devices))


def _title(name: str, result: MatchResult, points: Sequence[_Point]) -> str:
    left = len(result.plans) - sum(point.rank is not None for point in points)
    missing = f"; {plural(left, 'plan')} of unknown cost left out" if left else ""
    return f"{name}: what faster costs{missing}"


def _served(plan: Plan, name: str, scale: float = 1.0) -> float | None:
    value = None if plan.service is None else getattr(plan.service.estimate, name)
    return None if value is None else value * scale


def _tokens_per_device(plan: Plan) -> float | None:
    parts = [part.placement for part in plan.parts] or [plan.placement]
    return None if plan.service is None else plan.service.estimate.tokens_per_s / sum(one.num_devices for one in parts)


def _kilowatt_hours(plan: Plan) -> float | None:
    energy = None if plan.estimate is None else plan.estimate.energy_j
    return None if energy is None else energy / 3.6e6


def _points(result: MatchResult, across: _Axis, up: _Axis) -> list[_Point]:
    """Return the plans of the table and of the front, each once, by the first axis."""
    found = []
    for rank, plan in enumerate([*result.plans, *(plan for plan in result.front if plan not in result.plans)], 1):
        x, y = across.value(plan), up.value(plan)
        if x is not None and y is not None:
            found.append(_Point(x, y, plan, rank if rank <= len(result.plans) else None))
    return sorted(found, key=lambda point: (point.x, point.y))


def _lowest(points: Sequence[_Point]) -> list[_Point]:
    """Return the points that no other is left of and below."""
    found: list[_Point] = []
    for point in points:
        if not found or point.y < found[-1].y:
            found.append(point)
    return found


def _draw(axes: Axes, front: Sequence[_Point], rest: Sequence[_Point], theme: Theme) -> None:
    axes.step([p.x for p in front], [p.y for p in front], where="post", color=theme.measured, linewidth=1.2, alpha=0.6)
    axes.plot([p.x for p in rest], [p.y for p in rest], "o", color=theme.muted, markersize=5, alpha=0.7)
    axes.plot([p.x for p in front], [p.y for p in front], "o", color=theme.measured, markersize=7)
    axes.grid(visible=True, axis="both")


def _scale(axes: Axes, points: Sequence[_Point], *, is_time: bool) -> None:
    """Choose scales and what stands along the axes."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter  # noqa: PLC0415 - heavy, and only drawing needs it

    for values, scale in (([p.x for p in points], axes.set_xscale), ([p.y for p in points], axes.set_yscale)):
        if min(values) > 0 and max(values) > _WIDE * min(values):
            scale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.08, y=0.2)
    axes.autoscale_view()
    ticks = time_ticks(*axes.get_xlim()) if is_time else []
    if ticks:
        axes.set_xticks([seconds for seconds, _ in ticks], [text for _, text in ticks])
        axes.set_xticks([], minor=True)


def time_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return round times between two, with their texts; none where there are fewer than two."""
    inside = [(seconds, text) for seconds, text in _TICKS if low <= seconds <= high]
    while len(inside) > _MOST_TICKS:
        inside = inside[::2]
    if high < 4.0 * low or len(inside) < 2:
        inside = _even_ticks(low, high)
    return inside


def _even_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return multiples of a round time, as they are told, where times lie near each other."""
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (1.0, "s")):
        for step in (20, 10, 5, 2, 1):
            first, last = math.ceil(low / (step * unit)), math.floor(high / (step * unit))
            if last - first >= 2:
                return [(count * step * unit, f"{count * step:,} {name}") for count in range(first, last + 1)]
    return []


def _named(points: Sequence[_Point], front: Sequence[_Point]) -> list[Label]:
    """Return the names, the most important first: the table's best, both ends of the front, the best of every chip.

    Then the others of the front and of the table; of plans that lie on the same point the first is named.
    """
    first = [point for point in points if point.rank == 1]
    ends = [front[0], front[-1]]
    lowest = {point.plan.placement.accelerator: point for point in sorted(points, key=lambda point: -point.y)}
    ranked = sorted((point for point in points if point.rank), key=lambda point: point.rank or 0)
    found: dict[tuple[str, str, str], Label] = {}
    for point in (*first, *ends, *lowest.values(), *front, *ranked):
        found.setdefault(
            (f"{point.x:.2g}", f"{point.y:.2g}", chip_text(point.plan.placement.accelerator)), _label(point)
        )
    return list(found.values())


def _label(point: _Point) -> Label:
    """Return the place in the table, the hardware and the cuts: ``1  H100-SXM-80GB:64  dp8 tp8``."""
    plan = point.plan
    placements = [part.placement for part in plan.parts] or [plan.placement]
    where = " + ".join(f"{chip_text(one.accelerator)}:{one.num_devices}" for one in placements)
    rank = "" if point.rank is None else f"{point.rank}"
    name = f"{rank}  {where}  {cuts_text(plan.strategy.parallelism)}".strip()
    return Label(point.x, point.y, name, rank, strong=point.rank == 1)
