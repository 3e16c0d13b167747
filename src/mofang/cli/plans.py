"""Plans and rejections as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from mofang.cli.output import line, print_table
from mofang.domain.estimate import Estimate
from mofang.domain.plan import MatchResult, Plan
from mofang.domain.reasons import Reason, Rejection, precedence
from mofang.errors import InfeasibleError
from mofang.report.words import batch_text, between, hardware_text, layout_text, plural, quantity, rejection_text
from mofang.units import show_bytes, show_count, show_duration

__all__ = ["print_basis", "print_plans", "print_rejections", "require_plans"]

_WHERE = ("#", "hardware", "layout")
_PREDICTED = ("batch", "tokens/s", "MFU", "memory", "time", "step", "90 %")
_FEW = 5


def print_plans(plans: Sequence[Plan], *, chosen: int | None = None, stream: TextIO | None = None) -> None:
    """Print plans by rank; ``chosen`` marks the one that was taken."""
    several = len({plan.placement.cluster for plan in plans}) > 1
    rows = [
        (_rank(index, chosen), hardware_text(plan, with_cluster=several), layout_text(plan))
        for index, plan in enumerate(plans)
    ]
    if all(plan.estimate is None for plan in plans):
        print_table(_WHERE, rows, stream=stream)
        return
    full = [
        (*row, batch_text(plan).partition(" = ")[0].replace(" ", ""), *_predicted(plan.estimate))
        for row, plan in zip(rows, plans, strict=True)
    ]
    print_table((*_WHERE, *_PREDICTED), full, stream=stream)


def _rank(index: int, chosen: int | None) -> str:
    return f"{index + 1} *" if index == chosen else str(index + 1)


def _predicted(estimate: Estimate | None) -> Sequence[str]:
    if estimate is None:
        return ("-",) * (len(_PREDICTED) - 1)
    return (
        show_count(estimate.tokens_per_s),
        quantity(estimate.mfu, "fraction"),
        show_bytes(estimate.memory_bytes),
        show_duration(estimate.total_time_s),
        show_duration(estimate.step_time_s),
        between(estimate.step_time_90.low, estimate.step_time_90.high),
    )


def print_rejections(result: MatchResult, *, everything: bool, stream: TextIO | None = None) -> None:
    """Print why other candidates are not among the plans: the few most telling rows, or all."""
    ordered = sorted(result.rejections, key=lambda row: (precedence(row.code), -row.candidates))
    shown = ordered if everything else [row for row in ordered if row.code is not Reason.WORSE][:_FEW]
    if not shown:
        return
    rows = [(row.what, rejection_text(row), row.hint, f"{row.candidates:,}") for row in shown]
    left = len(ordered) - len(shown)
    line("", stream)
    print_table(("not possible", "why", "what would help", "candidates"), rows, stream=stream)
    if left > 0:
        line(f"{plural(left, 'more row')} with --explain", stream)


def print_basis(plan: Plan) -> None:
    """Print what the best plan's estimate is made of, and what it rests on."""
    estimate = plan.estimate
    if estimate is None:
        return
    _print_parts("a step's time", estimate.time, "s")
    _print_parts("memory", estimate.memory, "bytes")
    if estimate.evidence:
        line()
        print_table(("the estimate rests on", "source"), [(row.what, row.source) for row in estimate.evidence])


def _print_parts(title: str, parts: object, unit: str) -> None:
    if not isinstance(parts, dict) or not parts:
        return
    total = sum(parts.values()) or 1.0
    rows = [(name, quantity(value, unit), quantity(value / total, "fraction")) for name, value in parts.items()]
    line()
    print_table((title, "predicted", "share"), rows)


def require_plans(result: MatchResult) -> tuple[Plan, ...]:
    """Return the feasible plans.

    Raises:
        InfeasibleError: there is none; it says the first reason, and carries all.
    """
    if result.plans:
        return result.plans
    rows = sorted(result.rejections, key=lambda row: (precedence(row.code), -row.candidates))
    why = f": {_first(rows[0])}" if rows else ""
    hint = next((row.hint for row in rows if row.hint), "`mofang doctor` shows the hardware there is")
    facts = [{"code": row.code.value, "what": row.what, "why": rejection_text(row), "hint": row.hint} for row in rows]
    raise InfeasibleError(
        f"none of {plural(result.candidates, 'candidate')} is feasible{why}", hint=hint, data={"rejections": facts}
    )


def _first(row: Rejection) -> str:
    return f"{row.what}: {rejection_text(row)}"
