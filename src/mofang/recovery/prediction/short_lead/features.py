"""What the last minutes of a node's telemetry look like, as features that are 0 where all is as it was.

Everything is compared with the node's own past, or with its other ranks: absolute levels differ between sites. A
feature names the column that made it largest, so that a prediction can say what it rests on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.recovery.telemetry.series import Series

__all__ = ["FEATURES", "PAST_S", "WARM_S", "Signs", "signs"]

Floats = NDArray[np.float64]

PAST_S = 300.0  # how far back is looked
WARM_S = 60.0  # before so much is known nothing is said
_NOW_S, _LATELY_S = 10.0, 30.0  # what is "now", and what does not count as the past any more
_MOST = 5.0
_HOT, _NEAR = 90.0, 10.0  # degrees Celsius: the limit where none is stated, and how far below it trouble begins
_FEWEST_LATENCY_S = 1e-3  # a disk slower than before, but this quick, is no trouble
_SCARCE = 0.3  # of the memory

_SOFT = re.compile(
    r"device\.\d+\.(ecc_corrected|pcie_replays|link_errors)|edac\.corrected|network\.(errors|drops)|kernel\.machine_checks"
)
_HARD = re.compile(
    r"device\.\d+\.(ecc_uncorrected|rows_remapped|pages_retired)|edac\.uncorrected|xid|disk\.errors|kernel\.disk_errors"
)
_STEP, _BUSY = re.compile(r"rank\.\d+\.step_s"), re.compile(r"rank\.\d+\.busy_s")
_WAITING = re.compile(r"pressure\.\w+")
_DEVICE = re.compile(r"(device\.\d+)\.")
_TEMPERATURE = re.compile(r"(device\.\d+\.temperature|heat\.host)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """The features of one moment, and the column that each comes from ("" where there is none)."""

    values: Floats
    columns: tuple[str, ...]


class _Window:
    """The last minutes, with the means and medians that several features need."""

    def __init__(self, series: Series) -> None:
        self.series, self.time, self.now = series, series.time, float(series.time[-1])
        now, lately = self._since(_NOW_S), self._since(_LATELY_S)
        self.recent, self.past, self.lately = slice(now, None), slice(0, lately), slice(lately, None)

    def _since(self, seconds: float) -> int:
        return int(np.searchsorted(self.time, self.now - seconds))

    def matching(self, form: re.Pattern[str]) -> Iterable[tuple[str, Floats]]:
        return ((name, column) for name, column in self.series.columns.items() if form.fullmatch(name))

    def level(self, column: Floats) -> tuple[float, float]:
        """Return the median now and in the past; not-a-number where nothing was measured."""
        return _median(column[self.recent]), _median(column[self.past])

    def growth(self, column: Floats, since_s: float, until_s: float = 0.0) -> float:
        """Return how much a counter grew between two ages; counters that went back began anew."""
        known = _known(column[self._since(since_s) : self._since(until_s) + 1])
        if not len(known) or known[0] == known[-1]:
            return 0.0
        return float(np.maximum(known[1:] - known[:-1], 0.0).sum())

    def slope(self, column: Floats) -> float:
        """Return the growth a second lately, by least squares; 0 where it is not above its own scatter."""
        time, value = self.time[self.lately], column[self.lately]
        rows = value == value  # noqa: PLR0124 - what was measured
        time, value = time[rows], value[rows]
        if len(value) < 8:
            return 0.0
        time = time - time.mean()
        spread = float(time @ time)
        slope = float(time @ (value - value.mean())) / spread if spread > 0 else 0.0
        rest = value - value.mean() - slope * time
        error = float(np.sqrt(rest @ rest / max(len(rest) - 2, 1) / spread)) if spread > 0 else 0.0
        return slope if abs(slope) > 3.0 * error else 0.0


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _median(values: Floats) -> float:
    """Return the upper median of what was measured (numpy's own takes ten times as long on so few)."""
    known = np.sort(_known(values))
    return float(known[len(known) // 2]) if len(known) else float("nan")


_Found = Iterable[tuple[float, str]]


def _ratio(now: float, before: float) -> float:
    return float(np.log(now / before)) if now > 0 and before > 0 else 0.0


def _slower(window: _Window) -> _Found:
    for name, column in window.matching(_STEP):
        yield _ratio(*window.level(column)), name


def _uneven(window: _Window) -> _Found:
    for name, column in window.matching(_STEP):
        logs = np.log(np.maximum(column, 1e-9))
        now, before = _known(logs[window.lately]), _known(logs[window.past])
        if len(now) > 3 and len(before) > 3:
            yield _scatter(now) - _scatter(before), name


def _scatter(values: Floats) -> float:
    return float(np.std(np.clip(values - _median(values), -2.0, 2.0)))


def _behind(window: _Window) -> _Found:
    """Yield how much longer a rank computes than its neighbours do, beyond what it always did."""
    levels = {name: window.level(column) for name, column in window.matching(_BUSY)}
    for name, (now, before) in levels.items():
        rest = [other for key, other in levels.items() if key != name]
        if rest:
            others_now, others_before = (_median(np.array([one[at] for one in rest])) for at in (0, 1))
            yield _ratio(now, others_now) - max(_ratio(before, others_before), 0.0), name


def _pressed(window: _Window) -> _Found:
    for name, column in window.matching(_WAITING):
        now, before = window.level(column)
        yield 3.0 * (now - before), name


def _disk(window: _Window) -> _Found:
    name = "disk.latency_s"
    if name in window.series.columns:
        now, before = (float(_mean(window.series.columns[name][rows])) for rows in (window.recent, window.past))
        yield _ratio(now + _FEWEST_LATENCY_S, before + _FEWEST_LATENCY_S), name


def _mean(values: Floats) -> float:
    known = _known(values)
    return float(known.mean()) if len(known) else 0.0


def _running_out(window: _Window) -> _Found:
    """Yield the speed at which memory ends: 1 where it lasts for another minute."""
    name = "memory.available"
    column = window.series.columns.get(name)
    if column is not None and (slope := window.slope(column)) < 0:
        yield min(60.0 * -slope / max(float(column[-1]), 1.0), 3.0), name


def _scarce(window: _Window) -> _Found:
    available, total = (window.series.columns.get(name) for name in ("memory.available", "memory.total"))
    if available is not None and total is not None and total[-1] > 0:
        yield (_SCARCE - float(available[-1] / total[-1])) / _SCARCE, "memory.available"


def _soft(window: _Window) -> _Found:
    for name, column in window.matching(_SOFT):
        yield float(np.log1p(window.growth(column, 60.0))) / 2.0, name


def _growing(window: _Window) -> _Found:
    for name, column in window.matching(_SOFT):
        lately = 4.0 * window.growth(column, 15.0)
        yield float(np.log1p(lately) - np.log1p(window.growth(column, 75.0, 15.0))) / 2.0, name


def _hard(window: _Window) -> _Found:
    for name, column in window.matching(_HARD):
        yield float(np.log1p(window.growth(column, 120.0))), name


def _hot(window: _Window) -> _Found:
    """Yield how far the temperature that a minute will bring is beyond the margin below the limit."""
    for name, column in window.matching(_TEMPERATURE):
        now, before = window.level(column)
        stated = window.series.columns.get(f"{name}_limit")
        limit = _median(stated) if stated is not None else _HOT
        coming = now + 60.0 * max(window.slope(column), 0.0)
        yield min((coming - limit + _NEAR) / _NEAR, max(now - before, 0.0)), name


def _throttled(window: _Window) -> _Found:
    for name, column in window.series.columns.items():
        if _DEVICE.match(name) and name.endswith((".clock", ".slowed")):
            now, before = window.level(column)
            yield (2.0 * _ratio(before, now) if name.endswith(".clock") else now - before), name


def _silent(window: _Window) -> _Found:
    """Yield how long a driver or a rank has said nothing, and devices that are not there any more."""
    for name, column in window.series.columns.items():
        if name.startswith("silent."):
            yield float(np.log1p(max(float(column[-1]) - 3.0, 0.0))), name
        elif name.endswith(".silent_s"):
            usual = max(1.0, float(_known(column[window.past]).max(initial=0.0)))
            yield _ratio(float(column[-1]), 1.5 * usual), name
        elif name.endswith(".temperature") and np.isnan(column[window.recent]).all():
            yield 2.0, name


FEATURES: Mapping[str, Callable[[_Window], _Found]] = {
    "steps take longer": _slower,
    "steps are uneven": _uneven,
    "a rank is behind the others": _behind,
    "tasks wait for the machine": _pressed,
    "the disk is slower": _disk,
    "memory is running out": _running_out,
    "memory is scarce": _scarce,
    "corrected errors": _soft,
    "corrected errors grow": _growing,
    "uncorrected errors": _hard,
    "heat": _hot,
    "clocks fell": _throttled,
    "something is silent": _silent,
}


def signs(series: Series) -> Signs:
    """Return the features at the last sample of a series that reaches at most ``PAST_S`` back."""
    window = _Window(series)
    found = [_worst(feature(window)) for feature in FEATURES.values()]
    return Signs(
        values=np.array([value for value, _ in found]),
        columns=tuple(name for _, name in found),
    )


def _worst(found: _Found) -> tuple[float, str]:
    known = [(value, name) for value, name in found if value > 0.0]  # what is not a number is not greater
    value, name = max(known, default=(0.0, ""))
    return min(value, _MOST), name
