"""``mofang plan --plot``: a picture of what faster costs: every plan by time and money, and the front marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.domain.plan import MatchResult, Plan
from mofang.errors import UsageError
from mofang.report.layouts import chip_text, cuts_text
from mofang.report.theme import LIGHT, Theme
from mofang.report.words import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["check_picture", "write_picture"]

_SUFFIXES = (".png", ".svg", ".pdf")
_SIZE = (8.0, 5.0)  # inches
_DPI = 160
_WIDE = 8.0  # times from the smallest to the largest value, beyond which an axis is logarithmic
_MOST_NAMES = 8
_APART = 0.042  # of the height, between two names
_GAP = 0.016  # of the width, between a point and its name
_MIDDLE = 0.55  # of the width: beyond it names are written to the left


@dataclass(frozen=True, slots=True)
class _Axis:
    """What is drawn along an axis: its label, and the value of a plan (None: unknown)."""

    label: str
    value: Callable[[Plan], float | None]


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
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, points, LIGHT)
        axes.set_title(_title(name, result, points))
        axes.set_xlabel(across.label)
        axes.set_ylabel(up.label)
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
    times = [plan.estimate.total_time_s for plan in plans if plan.estimate is not None] or [1.0]
    unit, seconds = _unit(math.sqrt(min(times) * max(times)))
    across = _Axis(
        f"time to finish, {unit}", lambda plan: plan.estimate.total_time_s / seconds if plan.estimate else None
    )
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


def _unit(seconds: float) -> tuple[str, float]:
    for name, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds > 3 * size:
            return name, size
    return "seconds", 1.0


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


def _draw(axes: Axes, points: Sequence[_Point], theme: Theme) -> None:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter  # noqa: PLC0415 - heavy, and only drawing needs it

    front = _lowest(points)
    rest = [point for point in points if point not in front]
    axes.step([p.x for p in front], [p.y for p in front], where="post", color=theme.measured, linewidth=1.2, alpha=0.6)
    axes.plot([p.x for p in rest], [p.y for p in rest], "o", color=theme.muted, markersize=5, alpha=0.7)
    axes.plot([p.x for p in front], [p.y for p in front], "o", color=theme.measured, markersize=7)
    axes.grid(visible=True, axis="both")
    for values, scale in (([p.x for p in points], axes.set_xscale), ([p.y for p in points], axes.set_yscale)):
        if min(values) > 0 and max(values) > _WIDE * min(values):
            scale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
        axis.set_minor_formatter(NullFormatter())
    _name(axes, _named(front, rest), theme)


def _named(front: Sequence[_Point], rest: Sequence[_Point]) -> list[_Point]:
    """Return the points to name: the table's best, the front evenly with its ends, and one of every other chip."""
    first = [point for point in (*front, *rest) if point.rank == 1]
    room = _MOST_NAMES - len(first)
    others = [point for point in front if point not in first]
    if len(others) > room:
        others = [others[round(index * (len(others) - 1) / (room - 1))] for index in range(room)]
    cheapest = {point.plan.placement.accelerator: point for point in sorted(rest, key=lambda point: -point.y)}
    known = {point.plan.placement.accelerator for point in (*first, *others)}
    return [*first, *others, *(point for chip, point in cheapest.items() if chip not in known)]


def _name(axes: Axes, points: Sequence[_Point], theme: Theme) -> None:
    """Write names beside points: right of those on the left and above, left of the others and below.

    Where names would lie on each other, the lower one moves down.
    """
    axes.margins(x=0.06, y=0.15)
    axes.autoscale_view()
    to_fraction = axes.transScale + axes.transLimits
    last = {True: float("inf"), False: float("inf")}
    for point in sorted(points, key=lambda point: -point.y):
        x, y = to_fraction.transform((point.x, point.y))
        left = x < _MIDDLE
        last[left] = min(y + (_APART / 2 if left else -_APART / 2), last[left] - _APART)
        axes.annotate(
            _label(point),
            (point.x, point.y),
            xytext=(x + _GAP if left else x - _GAP, last[left]),
            textcoords="axes fraction",
            ha="left" if left else "right",
            va="center",
            fontsize=8.5,
            color=theme.ink if point.rank == 1 else theme.muted,
            fontweight="bold" if point.rank == 1 else "normal",
            bbox={"facecolor": theme.surface, "edgecolor": "none", "alpha": 0.75, "pad": 1},
        )


def _label(point: _Point) -> str:
    """Return the place in the table, the hardware and the cuts: ``1  H100-SXM-80GB:64  dp8 tp8``."""
    plan = point.plan
    placements = [part.placement for part in plan.parts] or [plan.placement]
    where = " + ".join(f"{chip_text(one.accelerator)}:{one.num_devices}" for one in placements)
    rank = "" if point.rank is None else f"{point.rank}  "
    return f"{rank}{where}  {cuts_text(plan.strategy.parallelism)}".rstrip()
