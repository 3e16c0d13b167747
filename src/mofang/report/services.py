"""What a service did, from the counts that its workers report now and then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mofang.domain.events import Event, EventKind
from mofang.report.steps import number

__all__ = ["Served", "served"]

Life = tuple[int, int, str]  # one worker of one generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A service over its whole life, all replicas and generations together.

    ``tokens_per_s`` counts only the time in which there was something to answer; latencies are means over requests,
    None where none was answered.
    """

    url: str
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    tokens_per_s: float | None
    ttft_s: float | None
    tpot_s: float | None


def served(events: Sequence[Event]) -> Served | None:
    """Return what a service did; None for a job that is none, or never answered."""
    urls = [str(event.data.get("url", "")) for event in events if event.kind is EventKind.SERVING]
    if not urls:
        return None
    lives: dict[Life, Event] = {}
    for event in sorted(events, key=lambda event: event.sequence):
        if event.kind is EventKind.TRAFFIC:
            lives[event.attempt, event.generation, event.source] = event
    last = list(lives.values())
    return Served(
        url=urls[-1],
        requests=_total(last, "requests"),
        failed=_total(last, "failed"),
        input_tokens=_total(last, "input_tokens"),
        output_tokens=_total(last, "output_tokens"),
        tokens_per_s=_rate(last),
        ttft_s=_mean(last, "ttft_s"),
        tpot_s=_mean(last, "tpot_s"),
    )


def _total(reports: Sequence[Event], key: str) -> int:
    return sum(int(number(report, key) or 0) for report in reports)


def _mean(reports: Sequence[Event], key: str) -> float | None:
    """Return the mean over lives, each weighted by the requests that it answered."""
    rows = [
        (value, (number(report, "requests") or 0.0) - (number(report, "failed") or 0.0))
        for report in reports
        if (value := number(report, key)) is not None
    ]
    weight = sum(answered for _, answered in rows)
    return sum(value * answered for value, answered in rows) / weight if weight > 0 else None


def _rate(reports: Sequence[Event]) -> float | None:
    """Return the tokens a second of all replicas together; generations follow one another, replicas run at once."""
    tokens: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for report in reports:
        made, busy = number(report, "output_tokens"), number(report, "busy_s")
        if made and busy:
            tokens[report.source] = tokens.get(report.source, 0.0) + made
            seconds[report.source] = seconds.get(report.source, 0.0) + busy
    return sum(tokens[source] / seconds[source] for source in tokens) if tokens else None
