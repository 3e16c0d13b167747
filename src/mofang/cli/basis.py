"""What ``mofang plan --explain`` adds: what the best plan's estimate is made of, rests on and hangs on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mofang.cli.columns import clean, fold
from mofang.cli.comparing import print_comparison
from mofang.cli.output import line, paint, print_table, terminal_width
from mofang.domain.estimate import Estimate, Evidence, Interval, ServiceEstimate
from mofang.domain.plan import MatchResult, Part, Plan, Role, Sensitivity
from mofang.report.layouts import batch_text, chip_text, cuts_text, hardware_text, layout_text
from mofang.report.words import between, difference, energy_text, money, plural, quantity, span
from mofang.units import show_count, show_duration

__all__ = ["print_basis"]

_TELLING = 0.005  # of the whole: smaller parts and differences are left out


def print_basis(result: MatchResult, *, currency: str = "") -> None:
    """Print what the best plan is, where its time and memory go, what that rests on, and what would change it."""
    plan = result.plans[0]
    estimate = plan.service.estimate if plan.service is not None else plan.estimate
    if estimate is None:
        return
    line()
    line(paint(f"plan 1: {hardware_text(plan)}, {' + '.join(plan.frameworks)}, {layout_text(plan)}", "bold"))
    if isinstance(estimate, ServiceEstimate):
        _print_facts(_service_facts(estimate))
        _print_parts("an iteration of decoding", estimate.time, "s")
        _print_parts("a prompt of mean length", estimate.prefill, "s")
    else:
        _print_facts(_training_facts(plan, estimate, currency))
        _print_parts("a step's time", estimate.time, "s")
    _print_parts("memory of the fullest device", estimate.memory, "bytes")
    _print_evidence(estimate.evidence, _tokens_per_device(plan))
    _print_sensitivities(result.sensitivities, "tokens/s within the level" if plan.service is not None else "tokens/s")
    if len(result.plans) > 1:
        print_comparison(plan, result.plans[1])


def _print_facts(facts: Iterable[tuple[str, str]]) -> None:
    for name, text in facts:
        line(f"  {name:<8} {text}")


def _training_facts(plan: Plan, estimate: Estimate, currency: str) -> Iterator[tuple[str, str]]:
    step, interval = estimate.step_time_s, estimate.step_time_90
    yield "step", f"{show_duration(step)}, 90 %: {between(interval.low, interval.high)}{_doubt(interval, step)}"
    if plan.steps is not None:
        scale = estimate.total_time_s / step
        whole = between(interval.low * scale, interval.high * scale)
        yield "time", f"{show_duration(estimate.total_time_s)} for {plural(plan.steps, 'step')}, 90 %: {whole}"
        yield "goodput", f"{estimate.goodput:.1%} of the time goes into steps that count"
    if plan.parts:
        yield from (("part", _part_text(part)) for part in plan.parts)
    elif plan.steps is not None:
        yield "batch", f"micro-batch x accumulation x dp: {batch_text(plan)} sequences"
    if estimate.cost is not None:
        yield "cost", f"{money(estimate.cost)} {currency}".rstrip()
    if estimate.energy_j is not None:
        yield "energy", energy_text(estimate.energy_j)


def _part_text(part: Part) -> str:
    where = f"{chip_text(part.placement.accelerator)}:{part.placement.num_devices}"
    share = f"{part.share:.1%} of the {_WHOLES.get(part.role, 'requests')}"
    return f"{share} on {where} with {part.framework}: {cuts_text(part.parallelism)}"


_WHOLES = {Role.STAGES: "layers", Role.REPLICAS: "batch"}


def _service_facts(one: ServiceEstimate) -> Iterator[tuple[str, str]]:
    rates = one.tokens_per_s_90
    yield (
        "load",
        f"{one.requests_per_s:.3g} requests/s, {one.concurrency:,.0f} in flight; at most {one.max_requests_per_s:.3g}",
    )
    yield "tokens/s", f"{show_count(one.tokens_per_s)}, 90 %: {span(rates.low, rates.high)}"
    for name, value, interval in (("TTFT", one.ttft_s, one.ttft_90), ("TPOT", one.tpot_s, one.tpot_90)):
        yield name, f"{show_duration(value)}, 90 %: {between(interval.low, interval.high)}{_doubt(interval, value)}"
    if one.kept is not None:
        yield "level", f"kept with a probability of {one.kept:.0%}, as far as the intervals go"
    yield "cache", f"room for {show_count(one.kv_tokens)} tokens in each replica"


def _doubt(interval: Interval, value: float) -> str:
    """Return how far off the truth may be, as factors."""
    if not value or not interval.low:
        return ""
    return f" ({interval.low / value:.2f} to {interval.high / value:.2f} times as predicted)"


def _print_parts(title: str, parts: Mapping[str, float], unit: str) -> None:
    total = sum(parts.values())
    if not total:
        return
    large = {name: value for name, value in parts.items() if value >= _TELLING * total}
    rest = total - sum(large.values())
    rows = [*sorted(large.items(), key=lambda row: -row[1]), *([("the rest", rest)] if rest > 0 else [])]
    line()
    print_table(
        (title, "predicted", "share"),
        [(name, quantity(value, unit), quantity(value / total, "fraction")) for name, value in rows],
    )


def _tokens_per_device(plan: Plan) -> float:
    """Return the tokens/s that each device is predicted to give, of a service when it is saturated."""
    devices = sum(one.num_devices for one in ([part.placement for part in plan.parts] or [plan.placement]))
    if plan.service is not None:
        found = plan.service.estimate
        return found.tokens_per_s * found.max_requests_per_s / found.requests_per_s / devices
    return 0.0 if plan.estimate is None else plan.estimate.tokens_per_s / devices


def _print_evidence(evidence: Sequence[Evidence], predicted: float) -> None:
    """Print everything that the estimate rests on, and what was measured nearest beside what is predicted."""
    near = [row for row in evidence if row.value is not None]
    other = [row for row in evidence if row.value is None]
    if other:
        line()
        print_table(("the estimate rests on", "source"), [(row.what, row.source) for row in other])
    if near:
        line()
        line(paint("measured nearest to it (distance 0: the same), tokens/s a device", "bold"))
        line(f"  {show_count(predicted)} is predicted here")
        for row in near:
            _print_folded(f"{show_count(row.value or 0.0)} at distance {_distance(row.distance)}: {row.what}")
            _print_folded(f"  {row.source}")


def _print_folded(text: str) -> None:
    """Print a text that may be long, its further lines indented."""
    indent = " " * (4 + len(text) - len(text.lstrip()))
    room = terminal_width()
    lines = [text.strip()] if room is None else fold(clean(text.strip()), max(20, room - len(indent)))
    for index, part in enumerate(lines):
        line(f"{indent[2:] if index == 0 else indent}{part}")


def _distance(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _print_sensitivities(rows: Sequence[Sensitivity], what: str) -> None:
    if not rows:
        return
    line()
    telling = [row for row in rows if abs(row.gain) >= _TELLING]
    if telling:
        shown = [(row.what, "nothing fits" if row.gain <= -1.0 else difference(row.gain)) for row in telling]
        print_table(("if it were different (searched anew)", what), shown)
    same = [row.what for row in rows if abs(row.gain) < _TELLING]
    if same:
        _print_folded(f"{'no change' if telling else 'it would be no faster'} with {'; '.join(same)}")
