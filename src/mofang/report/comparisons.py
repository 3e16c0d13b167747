"""What was predicted beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mofang.domain.estimate import Estimate, Interval
from mofang.domain.events import Event
from mofang.domain.job import Job
from mofang.domain.plan import Plan
from mofang.domain.scenario import Classify, Serve
from mofang.report.services import Served, served
from mofang.report.steps import StepPoint, median_of, peak_memory

__all__ = ["Comparison", "compare", "compare_service", "comparisons"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One quantity, predicted beside measured. ``low`` and ``high`` bound 90 % of outcomes; None: not known."""

    name: str
    unit: str  # s, tokens/s, fraction or bytes
    predicted: float | None
    measured: float | None
    low: float | None = None
    high: float | None = None

    @property
    def error(self) -> float | None:
        """(measured - predicted) / predicted; None where either is missing."""
        if not self.predicted or self.measured is None:
            return None
        return self.measured / self.predicted - 1.0

    @property
    def inside(self) -> bool | None:
        """Whether the measured value lies in the interval; None where there is none."""
        if self.low is None or self.high is None or self.measured is None:
            return None
        return self.low <= self.measured <= self.high


def comparisons(
    job: Job, plan: Plan | None, points: Sequence[StepPoint], events: Sequence[Event]
) -> tuple[Comparison, ...]:
    """Return what was predicted beside what was measured, for the quantities of which either is known."""
    service, task = served(events), job.scenario.task
    if service is not None or isinstance(task, Serve):
        return compare_service(plan, service)
    rows = compare(plan, points, peak_memory(events))
    if isinstance(task, Classify):  # what the rest of the platform counts in tokens is patches here
        rows = tuple(_in_images(row, task.model.sequence) if row.unit == "tokens/s" else row for row in rows)
    return rows


def _in_images(row: Comparison, tokens: int) -> Comparison:
    predicted, measured, low, high = (
        None if value is None else value / tokens for value in (row.predicted, row.measured, row.low, row.high)
    )
    return replace(row, unit="images/s", predicted=predicted, measured=measured, low=low, high=high)


def compare_service(plan: Plan | None, service: Served | None) -> tuple[Comparison, ...]:
    """Return what was predicted for the expected traffic beside what was measured under the one that came."""
    estimate = plan.service.estimate if plan is not None and plan.service is not None else None
    rows = []
    for name, unit, key, interval in (
        ("output", "tokens/s", "tokens_per_s", "tokens_per_s_90"),
        ("time to first token", "s", "ttft_s", "ttft_90"),
        ("time per token", "s", "tpot_s", "tpot_90"),
    ):
        between: Interval | None = getattr(estimate, interval, None)
        rows.append(
            Comparison(
                name=name,
                unit=unit,
                predicted=getattr(estimate, key, None),
                measured=getattr(service, key, None),
                low=between.low if between else None,
                high=between.high if between else None,
            )
        )
    return tuple(row for row in rows if row.predicted is not None or row.measured is not None)


def compare(plan: Plan | None, points: Sequence[StepPoint], memory: float | None) -> tuple[Comparison, ...]:
    """Return the same for training: medians of the steps, and the most memory that was seen."""
    estimate = plan.estimate if plan is not None else None
    rows = (
        _step_time(estimate, median_of(points, "step_time_s")),
        _scaled("throughput", "tokens/s", estimate, "tokens_per_s", median_of(points, "tokens_per_s")),
        _scaled("MFU", "fraction", estimate, "mfu", median_of(points, "mfu")),
        Comparison(
            name="memory of a worker",
            unit="bytes",
            predicted=estimate.memory_bytes if estimate else None,
            measured=memory,
        ),
    )
    return tuple(row for row in rows if row.predicted is not None or row.measured is not None)


def _step_time(estimate: Estimate | None, measured: float | None) -> Comparison:
    if estimate is None:
        return Comparison(name="step time", unit="s", predicted=None, measured=measured)
    interval = estimate.step_time_90
    return Comparison(
        name="step time",
        unit="s",
        predicted=estimate.step_time_s,
        measured=measured,
        low=interval.low,
        high=interval.high,
    )


def _scaled(name: str, unit: str, estimate: Estimate | None, field: str, measured: float | None) -> Comparison:
    """Return a quantity that is inversely proportional to the step time, and so is its interval."""
    if estimate is None:
        return Comparison(name=name, unit=unit, predicted=None, measured=measured)
    predicted, interval = float(getattr(estimate, field)), estimate.step_time_90
    work = predicted * estimate.step_time_s
    known = interval.low > 0 and interval.high > 0
    return Comparison(
        name=name,
        unit=unit,
        predicted=predicted,
        measured=measured,
        low=work / interval.high if known else None,
        high=work / interval.low if known else None,
    )
