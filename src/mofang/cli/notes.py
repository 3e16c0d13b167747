"""What is said below a table of plans: near-twins left out, what is unsure of some, and what cannot be started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TextIO

from mofang.cli.columns import fold
from mofang.cli.output import line, terminal_width
from mofang.domain.plan import Plan
from mofang.report.words import plural

__all__ = ["different", "print_notes"]


def different(plans: Sequence[Plan], chosen: int | None = None) -> list[int]:
    """Return the places of the plans that are no near-twins of one before them, and of the one that was taken."""
    seen: set[object] = set()
    places = []
    for place, plan in enumerate(plans):
        if plan.choice not in seen or place == chosen:
            places.append(place)
        seen.add(plan.choice)
    return places


def print_notes(plans: Sequence[Plan], shown: Sequence[int], stream: TextIO | None = None) -> None:
    """Print what a reader of a table has to know of the plans at these places."""
    texts = list(_notes(plans, shown))
    if texts:
        line("", stream)
    room = terminal_width(stream)
    for text in texts:
        for part in [text] if room is None else fold(text, room):
            line(part, stream)


def _notes(plans: Sequence[Plan], shown: Sequence[int]) -> Iterator[str]:
    left = len(plans) - len(shown)
    if left:
        yield (
            f"{plural(left, 'near-twin')} of these (another micro-batch, degree, recomputation or cache format) "
            f"{'is' if left == 1 else 'are'} left out: --explain shows them"
        )
    estimates = {place + 1: one for place in shown if (one := plans[place].estimate) is not None}
    if any(one.tight for one in estimates.values()):
        from mofang.matching.headroom import memory_error  # noqa: PLC0415 - only where something is tight

        yield (
            f"tight: nearer to the limit than predicted memory typically is to measured memory ({memory_error():.0%}); "
            "plans of about the same speed with room come first"
        )
    for numbers, what in _untried(plans, shown).items():
        text = " and ".join(what)
        yield f"{_plans(numbers)}: no measurement with {text} is known, so the interval is wider and the rank lower"
    mixed = [place + 1 for place in shown if plans[place].is_mixture]
    if mixed:
        yield f"{_plans(mixed)}: one job on two kinds of chips, which nothing can start yet; it is here to compare with"


def _untried(plans: Sequence[Plan], shown: Sequence[int]) -> dict[tuple[int, ...], list[str]]:
    """Return what nobody has measured, by the numbers of the plans that have it."""
    found: dict[str, list[int]] = {}
    for place in shown:
        estimate = plans[place].estimate
        for what in () if estimate is None else estimate.unmeasured:
            found.setdefault(f"{what} in {' + '.join(plans[place].frameworks)}", []).append(place + 1)
    together: dict[tuple[int, ...], list[str]] = {}
    for what, numbers in found.items():
        together.setdefault(tuple(numbers), []).append(what)
    return together


def _plans(numbers: Sequence[int]) -> str:
    return f"plan{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"
