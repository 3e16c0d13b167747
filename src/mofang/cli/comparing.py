"""Why one plan comes before another: their figures, and the parts of a step in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mofang.cli.output import line, print_table
from mofang.domain.estimate import Estimate
from mofang.domain.plan import Plan
from mofang.report.layouts import layout_text
from mofang.report.words import energy_text, money, quantity
from mofang.units import show_bytes, show_count, show_duration

__all__ = ["print_comparison"]

_TELLING = 0.002  # of the whole: smaller differences are left out
_SAME = 0.0005
_MOST_PARTS = 4

_Row = tuple[str, str, str, str]


def print_comparison(first: Plan, second: Plan) -> None:
    """Print the figures in which two plans differ, and where a step, or an iteration, gains and loses."""
    rows = [*_doubts(first, second), *_figures(first, second), *_parts(first, second)]
    line()
    if rows:
        print_table((f"why 1 before 2 ({layout_text(second)})", "plan 1", "plan 2", "difference"), rows)
    else:
        line(f"plans 1 and 2 ({layout_text(second)}) cannot be told apart")


def _doubts(first: Plan, second: Plan) -> Iterator[_Row]:
    """Yield what makes one of them less sure, which its rank pays for."""
    one, two = first.estimate, second.estimate
    if one is not None and two is not None:
        if one.tight != two.tight:
            yield "room in memory", _room(one), _room(two), ""
        if one.unmeasured != two.unmeasured:
            yield "unmeasured", ", ".join(one.unmeasured) or "nothing", ", ".join(two.unmeasured) or "nothing", ""


def _room(one: Estimate) -> str:
    return "tight" if one.tight else "enough"


def _figures(first: Plan, second: Plan) -> Iterator[_Row]:
    shown = {
        "time": show_duration,
        "tokens/s": show_count,
        "cost": money,
        "energy": energy_text,
        "cost/M tokens": money,
        "level kept": lambda value: f"{value:.0%}",
        "TTFT": show_duration,
        "TPOT": show_duration,
        "memory": show_bytes,
    }
    mine, other = _values(first), _values(second)
    for name, show in shown.items():
        one, two = mine.get(name), other.get(name)
        if one and two and abs(two / one - 1.0) >= _SAME:
            yield name, show(one), show(two), _percent(two / one - 1.0)


def _values(plan: Plan) -> Mapping[str, float | None]:
    if plan.service is not None:
        one = plan.service.estimate
        figures = {"tokens/s": one.tokens_per_s, "TTFT": one.ttft_s, "TPOT": one.tpot_s, "memory": one.memory_bytes}
        return {**figures, "level kept": one.kept, "cost/M tokens": one.cost_per_million_tokens}
    if plan.estimate is None:
        return {}
    found = plan.estimate
    return {
        "time": found.total_time_s,
        "tokens/s": found.tokens_per_s,
        "cost": found.cost,
        "energy": found.energy_j,
        "memory": found.memory_bytes,
    }


def _parts(first: Plan, second: Plan) -> Iterator[_Row]:
    """Yield the parts of a step that differ most; their difference is told in parts of the first plan's step."""
    mine, other = _seconds(first), _seconds(second)
    whole = sum(mine.values())
    if not whole or not other:
        return
    gaps = {name: other.get(name, 0.0) - mine.get(name, 0.0) for name in dict.fromkeys([*mine, *other])}
    unit = "an iteration" if first.service is not None else "a step"
    for name in sorted(gaps, key=lambda name: -abs(gaps[name]))[:_MOST_PARTS]:
        if abs(gaps[name]) >= _TELLING * whole:
            one, two = (quantity(round(found.get(name, 0.0), 9), "s") for found in (mine, other))
            yield f"{unit}: {name}", one, two, f"{_percent(gaps[name] / whole)} of {unit}"


def _seconds(plan: Plan) -> Mapping[str, float]:
    if plan.service is not None:
        return plan.service.estimate.time
    return {} if plan.estimate is None else plan.estimate.time


def _percent(value: float) -> str:
    return f"{value * 100:+.1f} %"
