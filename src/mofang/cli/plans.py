"""Plans and rejections as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from mofang.cli.notes import different, print_notes
from mofang.cli.output import line, print_table, terminal_width
from mofang.domain.estimate import Estimate, ServiceEstimate
from mofang.domain.plan import MatchResult, Plan
from mofang.domain.reasons import Reason, Rejection, precedence
from mofang.domain.scenario import Classify, Goal, Scenario, Serve
from mofang.errors import InfeasibleError
from mofang.report.layouts import batch_text, hardware_text, layout_text, numbers_text
from mofang.report.words import between, energy_text, money, plural, quantity, rejection_text, span
from mofang.units import show_bytes, show_count, show_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["print_plans", "print_rejections", "require_plans"]

_UNKNOWN = "unknown"
_FEW = 5
_LIMITS = frozenset({Reason.SERVICE_LEVEL, Reason.DEADLINE, Reason.BUDGET})
_TIGHT = 100  # columns below which only the tail of latencies is shown
_ROOMY = 140  # columns from which a table also has what is nice to know


@dataclass(frozen=True, slots=True)
class _Column:
    """A heading and a cell for each plan. ``names``: told once for all where the plans do not differ in it."""

    heading: str
    cells: Sequence[str]
    names: bool = False


def print_plans(
    plans: Sequence[Plan],
    scenario: Scenario,
    *,
    chosen: int | None = None,
    currency: str = "",
    everything: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Print plans by rank, in columns that tell them apart; what is unknown of all of them has no column.

    Below the table stands what its reader has to know of some of them.

    Args:
        plans: best first.
        scenario: what they are plans for.
        chosen: the place of the one that was taken, which is marked.
        currency: of the costs.
        everything: whether near-twins of better plans are printed too; their numbers are taken either way.
        stream: where to print; default: stdout.
    """
    room, every = terminal_width(stream), plans
    places = list(range(len(plans))) if everything else different(plans, chosen)
    plans = [plans[place] for place in places]
    columns = [*_names(plans), *_batches(plans, room), *_predictions(plans, scenario, currency, room)]
    shown = [column for column in columns if any(cell not in {_UNKNOWN, "-", ""} for cell in column.cells)]
    alike = [column for column in shown if column.names and len(plans) > 1 and len(set(column.cells)) == 1]
    shown = [column for column in shown if column not in alike]
    ranks = [f"{place + 1} *" if place == chosen else str(place + 1) for place in places]
    rows = list(zip(ranks, *(column.cells for column in shown), strict=True))
    if alike:
        line(f"in all plans: {', '.join(column.cells[0] for column in alike)}", stream)
    print_table(("#", *(column.heading for column in shown)), rows, stream=stream)
    print_notes(every, places, stream)
    if scenario.restart.spare_nodes:
        held = plural(scenario.restart.spare_nodes, "spare node")
        line(f"{held} of the same kind held beside those of the plan: cost and energy leave them out", stream)


def _names(plans: Sequence[Plan]) -> Iterator[_Column]:
    """Yield what is used."""
    several = len({part.cluster for plan in plans for part in (plan.placement, *(p.placement for p in plan.parts))}) > 1
    yield _Column("hardware", [hardware_text(plan, with_cluster=several) for plan in plans], names=True)
    if all(plan.steps is None and plan.service is None for plan in plans):
        yield _Column("layout", [layout_text(plan) for plan in plans])
        return
    yield _Column("with", [" + ".join(plan.frameworks) for plan in plans], names=True)
    if any(plan.service is None for plan in plans):
        yield _Column("method", _methods(plans), names=True)
    yield _Column("precision", [numbers_text(plan) for plan in plans], names=True)
    yield _Column("layout", [layout_text(plan, with_numbers=False, with_method=False) for plan in plans])


def _methods(plans: Sequence[Plan]) -> Sequence[str]:
    """Return the methods, where they are not all the usual one."""
    methods = [plan.strategy.method.value for plan in plans]
    return [""] * len(plans) if set(methods) == {"full"} else methods


def _batches(plans: Sequence[Plan], room: int | None) -> Iterator[_Column]:
    """Yield micro-batch x accumulation x dp, where there is room, or where plans differ in nothing else."""
    if any(plan.steps is None for plan in plans):
        return
    alike = {(hardware_text(plan), plan.strategy.framework, layout_text(plan)) for plan in plans}
    if _is_roomy(room) or len(alike) < len(plans):
        yield _Column("batch", [batch_text(plan).partition(" = ")[0].replace(" ", "") for plan in plans])


def _is_roomy(room: int | None) -> bool:
    return room is None or room >= _ROOMY


def _predictions(plans: Sequence[Plan], scenario: Scenario, currency: str, room: int | None) -> list[_Column]:
    roomy = _is_roomy(room)
    if isinstance(scenario.task, Serve):
        found = list(_service_columns(plans, scenario.task, room))
    else:
        trained = _IMAGES if isinstance(scenario.task, Classify) else _TOKENS
        told = _TRAINED if roomy or scenario.goal is Goal.ENERGY else _TRAINED[:-1]
        found = [_Column(name, [_trained(plan, cell) for plan in plans]) for name, cell in (*trained, *told)]
    names = {"cost": f"cost, {currency}", "cost/M": f"{currency}/M"} if currency else {}
    return [_Column(names.get(column.heading, column.heading), column.cells) for column in found]


def _service_columns(plans: Sequence[Plan], task: Serve, room: int | None) -> Iterator[_Column]:
    """Yield what a service is predicted to do: at a given rate how many requests it could take, else its tokens."""
    many = _CAPACITY if task.traffic.rate is not None else _THROUGHPUT
    if _is_roomy(room):
        rows = [*_AT_ONCE, *_LATENCY, *_KEPT, *many, *_CACHE, *_COST, *_JOULES]
    else:
        tight = room is not None and room < _TIGHT
        rows = [*(_TAILS if tight else _LATENCY), *_KEPT, *many, *_COST]
    percent = f"p{task.level.percentile * 100:.3g}"
    for name, cell in rows:
        yield _Column(name.replace("{p}", percent), [_served(plan, cell) for plan in plans])


def _trained(plan: Plan, cell: Callable[[Plan, Estimate], str]) -> str:
    return "-" if plan.estimate is None else cell(plan, plan.estimate)


def _served(plan: Plan, cell: Callable[[Plan, ServiceEstimate], str]) -> str:
    return "-" if plan.service is None else cell(plan, plan.service.estimate)


def _rates(plan: Plan, estimate: Estimate, each: float) -> str:
    """Return the interval of what is done in a second, of ``each`` units a step."""
    return span(each / estimate.step_time_90.high, each / estimate.step_time_90.low)


def _money(value: float | None) -> str:
    return _UNKNOWN if value is None else money(value)


_TOKENS: tuple[tuple[str, Callable[[Plan, Estimate], str]], ...] = (
    ("tokens/s", lambda _, one: show_count(one.tokens_per_s)),
    ("90 %", lambda plan, one: _rates(plan, one, one.tokens_per_s * one.step_time_s)),
)
_IMAGES: tuple[tuple[str, Callable[[Plan, Estimate], str]], ...] = (
    ("images/s", lambda plan, one: show_count(plan.strategy.global_batch / one.step_time_s)),
    ("90 %", lambda plan, one: _rates(plan, one, plan.strategy.global_batch)),
)
_TRAINED: tuple[tuple[str, Callable[[Plan, Estimate], str]], ...] = (
    ("MFU", lambda _, one: quantity(one.mfu, "fraction")),
    ("memory", lambda _, one: f"{show_bytes(one.memory_bytes)}{' tight' if one.tight else ''}"),
    ("time", lambda _, one: show_duration(one.total_time_s)),
    ("cost", lambda _, one: _money(one.cost)),
    ("energy", lambda _, one: _UNKNOWN if one.energy_j is None else energy_text(one.energy_j)),
)
_Served = tuple[tuple[str, Callable[[Plan, ServiceEstimate], str]], ...]
_AT_ONCE: _Served = (("at once", lambda plan, _: "-" if plan.service is None else str(plan.service.concurrency)),)
_LATENCY: _Served = (
    ("TTFT..{p}", lambda _, one: between(one.ttft_s, one.ttft_tail_s)),
    ("TPOT..{p}", lambda _, one: between(one.tpot_s, one.tpot_tail_s)),
)
_TAILS: _Served = (
    ("TTFT {p}", lambda _, one: show_duration(one.ttft_tail_s)),
    ("TPOT {p}", lambda _, one: show_duration(one.tpot_tail_s)),
)
_KEPT: _Served = (("kept", lambda _, one: _UNKNOWN if one.kept is None else f"{one.kept:.0%}"),)
_CAPACITY: _Served = (
    ("max req/s", lambda _, one: f"{one.max_requests_per_s:.3g}"),
    ("90 %", lambda _, one: _capacity(one)),
)
_THROUGHPUT: _Served = (
    ("tokens/s", lambda _, one: show_count(one.tokens_per_s)),
    ("90 %", lambda _, one: span(one.tokens_per_s_90.low, one.tokens_per_s_90.high)),
    ("req/s", lambda _, one: f"{one.max_requests_per_s:.3g}"),
)
_CACHE: _Served = (("memory", lambda _, one: show_bytes(one.memory_bytes)),)
_COST: _Served = (("cost/M", lambda _, one: _money(one.cost_per_million_tokens)),)
_JOULES: _Served = (
    ("J/token", lambda _, one: _UNKNOWN if one.energy_j_per_token is None else f"{one.energy_j_per_token:.3g}"),
)


def _capacity(one: ServiceEstimate) -> str:
    """Return the interval of the requests/s that saturate it: as wide as that of its tokens/s."""
    scale = one.max_requests_per_s / one.tokens_per_s
    return span(scale * one.tokens_per_s_90.low, scale * one.tokens_per_s_90.high)


def print_rejections(result: MatchResult, *, everything: bool, stream: TextIO | None = None) -> None:
    """Print why other candidates are not among the plans: the few most telling rows, or all."""
    ordered = _ordered(result)
    shown = ordered if everything else [row for row in ordered if not (result.plans and _is_detail(row))][:_FEW]
    if not shown:
        _print_left(ordered, stream)
        return
    rows = [(row.what, rejection_text(row), row.hint, f"{row.candidates:,}") for row in shown]
    left = [row for row in ordered if row not in shown]
    line("", stream)
    print_table(("not possible (the closest)", "why", "what would help", "candidates"), rows, stream=stream)
    _print_left(left, stream)


def _is_detail(row: Rejection) -> bool:
    """Whether a row says nothing of what devices can do: others on them are feasible."""
    return row.feasible > 0 or row.code is Reason.WORSE


def _print_left(rows: Sequence[Rejection], stream: TextIO | None) -> None:
    """Say how many cannot run on devices on which others can."""
    count = sum(row.candidates for row in rows if row.code is not Reason.WORSE)
    if count:
        line("", stream)
        line(f"{plural(count, 'more candidate')} on these devices {_are(count)} ruled out: --explain says why", stream)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _ordered(result: MatchResult) -> list[Rejection]:
    """Return the rejections by precedence.

    Where nothing is feasible, what only a limit rules out comes first; where something is, devices that can do nothing.
    """

    def place(row: Rejection) -> tuple[int, int, int]:
        if result.plans:
            return int(_is_detail(row)), precedence(row.code), -row.candidates
        return int(row.code not in _LIMITS), precedence(row.code), -row.candidates

    return sorted(result.rejections, key=place)


def require_plans(result: MatchResult) -> tuple[Plan, ...]:
    """Return the feasible plans.

    Raises:
        InfeasibleError: there is none; it says the first reason, and carries all.
    """
    if result.plans:
        return result.plans
    rows = _ordered(result)
    why = f": {_first(rows[0])}" if rows else ""
    hint = next((row.hint for row in rows if row.hint), "`mofang doctor` shows the hardware there is")
    facts = [{"code": row.code.value, "what": row.what, "why": rejection_text(row), "hint": row.hint} for row in rows]
    raise InfeasibleError(
        f"none of {plural(result.candidates, 'candidate')} is feasible{why}", hint=hint, data={"rejections": facts}
    )


def _first(row: Rejection) -> str:
    return f"{row.what}: {rejection_text(row)}"
