"""One worker's share of a probe: every case, in step with the other workers of its team.

A team of several workers is several processes (``python -m mofang.backends.local.probe --rank R --world W ...``),
because memory bandwidth, caches and clock frequency are shared: two workers at once are slower than one alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import cycle

import torch

from mofang.backends.local.probe.operators import build
from mofang.backends.local.probe.shapes import Case
from mofang.backends.local.probe.timing import Timer
from mofang.domain.rates import Operator, OperatorRate, Phase

__all__ = ["DTYPES", "Setting", "dispatch_seconds", "measure_cases", "plausible"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How many workers run at once, and with how many threads each, on which device."""

    device: str  # "cpu" or "cuda"
    name: str  # "cpu" or the accelerator's name
    workers: int
    threads: int


@dataclass(slots=True)
class _Pace:
    """What each operator last took, so that a case that would take too long is left out."""

    longest_s: float
    last: dict[tuple[Operator, str], tuple[float, float]] = field(default_factory=dict)

    def too_slow(self, case: Case) -> bool:
        known = self.last.get((case.operator, case.dtype))
        return known is not None and known[1] * _work(case) / known[0] > self.longest_s

    def note(self, case: Case, seconds: float) -> None:
        self.last[case.operator, case.dtype] = (_work(case), seconds)


def _work(case: Case) -> float:
    """Return what the time of a case grows with."""
    if case.operator is Operator.EMBEDDING:
        return float((case.shape[0] + case.shape[1]) * case.shape[2])
    repeated = case.shape[1] if case.operator is Operator.ATTENTION else 1
    return float(math.prod(case.shape) * repeated)


_ROUNDS, _MORE_ROUNDS = 2, 3  # apart in time, so that one disturbance does not spoil a measurement
_AGREE = 1.25  # rounds further apart than this factor were disturbed


def _agree(rounds: list[OperatorRate]) -> bool:
    return rounds[-1].seconds <= _AGREE * rounds[0].seconds


@dataclass(slots=True)
class _Best:
    """Each measurement's two fastest rounds."""

    rates: dict[tuple[Case, Phase], list[OperatorRate]] = field(default_factory=dict)

    def add(self, case: Case, rate: OperatorRate) -> None:
        rounds = [*self.rates.get((case, rate.phase), ()), rate]
        self.rates[case, rate.phase] = sorted(rounds, key=lambda each: each.seconds)[:2]

    def settled(self) -> list[OperatorRate]:
        """Return each measurement: the middle of its two rounds, or the faster one where they never agreed."""
        return [
            replace(rounds[0], seconds=math.sqrt(rounds[0].seconds * rounds[-1].seconds))
            if _agree(rounds)
            else rounds[0]
            for rounds in self.rates.values()
        ]

    def disturbed(self) -> list[Case]:
        """Return the cases whose two best rounds do not agree."""
        apart = {case for (case, _), rounds in self.rates.items() if not _agree(rounds)}
        return [case for case in dict.fromkeys(case for case, _ in self.rates) if case in apart]


def measure_cases(cases: list[Case], setting: Setting, timer: Timer, report: Report) -> list[OperatorRate]:
    """Time every case that is fast enough, in rounds, and keep its best; what does not agree is timed again.

    ``report`` is called with the fraction that is done, and what comes next.
    """
    torch.set_num_threads(setting.threads)
    best = _Best()
    for number in range(_ROUNDS):
        pace = _Pace(timer.longest_s)
        for index, case in enumerate(cases):
            report((number * len(cases) + index) / (_ROUNDS * len(cases)), f"{case.dtype} {case.operator.value}")
            if pace.too_slow(case):
                continue
            rates = list(_measure(case, setting, timer))
            pace.note(case, max(rate.seconds for rate in rates))
            for rate in rates:
                best.add(case, rate)
    for _ in range(_MORE_ROUNDS):
        for case in best.disturbed():
            report(1.0, f"{case.dtype} {case.operator.value} again")
            for rate in _measure(case, setting, timer):
                best.add(case, rate)
    return best.settled()


def _in_turn(calls: list[Callable[[], object]]) -> Callable[[], object]:
    turns = cycle(calls)

    def call() -> object:
        return next(turns)()

    return call


def _copies(case: Case) -> int:
    """Return how many sets of inputs to take turns with: in a step nothing waits in the cache from the last time."""
    sizes = [*case.shape, 1]
    largest = max(sizes[0] * sizes[1], sizes[-2] * sizes[0], sizes[-2] * sizes[1])
    return max(1, min(_MOST_COPIES, int(_COLD_BYTES / (12.0 * largest))))


_COLD_BYTES, _MOST_COPIES = 48e6, 5


def _measure(case: Case, setting: Setting, timer: Timer) -> Iterator[OperatorRate]:
    dtype = DTYPES[case.dtype]
    copies = [build(case.operator, case.shape, dtype, setting.device) for _ in range(_copies(case))]
    for phase in copies[0].calls:
        sample = timer.measure(_in_turn([copy.calls[phase] for copy in copies]))
        yield OperatorRate(
            device=setting.name,
            dtype=case.dtype,
            workers=setting.workers,
            threads=setting.threads,
            operator=case.operator,
            phase=phase,
            shape=case.shape,
            seconds=sample.seconds,
            spread=sample.spread,
        )


def dispatch_seconds(setting: Setting, timer: Timer) -> tuple[float, float]:
    """Return seconds to launch one small operator, and what autograd adds to it over both passes."""
    torch.set_num_threads(setting.threads)
    count = 50
    plain = torch.randn(4, 4, device=setting.device)
    tracked = torch.randn(4, 4, device=setting.device, requires_grad=True)

    def chain(start: torch.Tensor) -> torch.Tensor:
        for _ in range(count):
            start = start * 1.0
        return start

    forward = timer.measure(lambda: chain(plain)).seconds / count
    both = timer.measure(lambda: torch.autograd.grad(chain(tracked).sum(), tracked)).seconds / count
    return forward, max(0.0, both - forward)


def plausible(rates: list[OperatorRate]) -> list[OperatorRate]:
    """Return the rates with one correction: several threads are never slower than one by more than their meeting costs.

    Where they seem to be, something else held one of the cores and the others waited for it at a barrier.
    """
    alone = {
        (rate.device, rate.dtype, rate.operator, rate.phase, rate.shape): rate.seconds
        for rate in rates
        if (rate.workers, rate.threads) == (1, 1)
    }

    def corrected(rate: OperatorRate) -> OperatorRate:
        one = alone.get((rate.device, rate.dtype, rate.operator, rate.phase, rate.shape))
        if one is None or rate.workers > 1 or rate.seconds <= one + _MEETING_S:
            return rate
        return replace(rate, seconds=one + _MEETING_S)

    return [corrected(rate) for rate in rates]


_MEETING_S = 2e-5  # starting and joining a parallel region
