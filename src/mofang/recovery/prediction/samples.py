"""From a history to what a model sees: one row for each unit in service and each day of prediction.

Every feature is known at the day of the prediction: decayed counts of the unit's own faults and of its neighbours',
time since the last one, time in service, and where the unit is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.recovery.prediction.history import Bools, FaultHistory, Floats, Ints

__all__ = ["RULES", "Samples", "sampled"]

HALF_LIVES = (0.5, 2.0, 8.0, 50.0)  # horizons, over which a fault counts half
_RECENT = 13.0  # horizons; a quarter of a year where a week is predicted
_NEVER = 1e4  # days since a fault that never was

# What anybody would try first: faults lately, faults so far, and how long ago the last one was.
RULES = ("faults lately", "faults so far", "since the last fault")


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Rows to predict: ``features`` has a column for each of ``names``, ``failed`` is what the horizon brought."""

    names: tuple[str, ...]
    unit: Ints
    day: Floats
    features: NDArray[np.float32]
    failed: Bools
    rules: NDArray[np.float64]  # what the trivial rules of ``RULES`` say; a column each

    def __len__(self) -> int:
        return len(self.unit)

    def where(self, rows: Bools) -> Samples:
        """Return some of the rows."""
        return Samples(
            names=self.names,
            unit=self.unit[rows],
            day=self.day[rows],
            features=self.features[rows],
            failed=self.failed[rows],
            rules=self.rules[rows],
        )


def sampled(history: FaultHistory, *, after: float | None = None) -> Samples:
    """Return a row for every unit in service at every step of the history whose horizon lies inside it.

    Args:
        history: what happened.
        after: leave out the days before this one, though what happened then is still known.
    """
    start = history.begin if after is None else after
    days = np.arange(start, history.end - history.lead_days - history.horizon_days + 1e-9, history.step_days)
    state = _State(history, float(days[0]) if len(days) else start)
    blocks = [_block(history, state, float(day)) for day in days]
    names = _names(history)
    if not blocks:
        none = np.zeros(0)
        return Samples(
            names=names,
            unit=none.astype(np.int64),
            day=none,
            features=np.zeros((0, len(names)), dtype=np.float32),
            failed=none > 0,
            rules=np.zeros((0, len(RULES))),
        )
    unit, day, features, failed, rules = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return Samples(names=names, unit=unit, day=day, features=features, failed=failed, rules=rules)


class _State:
    """What is known of each unit at one day; moves forward only."""

    def __init__(self, history: FaultHistory, day: float) -> None:
        self.order = np.argsort(history.event_day, kind="stable")
        self.history, self.day, self.place = history, -np.inf, 0
        many, groups = len(history.units), len(history.neighbourhoods)
        self.own = np.zeros((len(HALF_LIVES), many))
        self.near = np.zeros((len(HALF_LIVES), groups))
        self.last = np.full(many, -np.inf)
        self.past = np.zeros(many)
        self.first_seen = _first_seen(history)
        self.move(day)

    def move(self, day: float) -> None:
        """Take in what happened until a day, and let what is older fade."""
        history, days = self.history, self.history.event_day
        upto = int(np.searchsorted(days[self.order], day, side="right"))
        rows = self.order[self.place : upto]
        self.place = upto
        for index, life in enumerate(history.horizon_days * part for part in HALF_LIVES):
            weight = 0.5 ** ((day - days[rows]) / life)
            fade = 0.5 ** ((day - self.day) / life) if np.isfinite(self.day) else 0.0
            self.own[index] *= fade
            self.near[index] *= fade
            np.add.at(self.own[index], history.event_unit[rows], weight)
            np.add.at(self.near[index], history.event_neighbourhood[rows], weight)
        np.maximum.at(self.last, history.event_unit[rows], days[rows])
        np.add.at(self.past, history.event_unit[rows], 1.0)
        self.day = day


def _names(history: FaultHistory) -> tuple[str, ...]:
    own = [f"own faults, half-life {part:g} horizons" for part in HALF_LIVES]
    near = [f"neighbours' faults, half-life {part:g} horizons" for part in HALF_LIVES]
    service = ["days in service"] if _starts_differ(history) else []
    return (*own, *near, "days since the last fault", "faults of the fleet", *service, *history.traits)


def _starts_differ(history: FaultHistory) -> bool:
    """Whether time in service tells units apart: where all began together it is the calendar, of which none repeats."""
    first = _first_seen(history)[history.stay_unit]
    return len(first) > 0 and bool(np.ptp(first) > 0)


def _first_seen(history: FaultHistory) -> Floats:
    """Return the day from which each unit is known; infinite where it was never in service."""
    first = np.full(len(history.units), np.inf)
    np.minimum.at(first, history.stay_unit, history.stay_begin)
    return first


def _block(history: FaultHistory, state: _State, day: float) -> tuple[NDArray[np.generic], ...]:
    state.move(day)
    stays = np.flatnonzero((history.stay_begin <= day) & (history.stay_end > day))
    unit, place = history.stay_unit[stays], history.stay_neighbourhood[stays]
    size = np.maximum(np.bincount(place, minlength=len(history.neighbourhoods))[place] - 1.0, 1.0)
    own = [row[unit] for row in state.own]
    near = [np.maximum(row[place] - mine, 0.0) / size for row, mine in zip(state.near, own, strict=True)]
    since = np.minimum(day - state.last[unit], _NEVER)
    fleet = np.full(len(unit), state.own[1][unit].sum() / max(len(unit), 1))
    columns = [
        *map(np.log1p, own),
        *(np.log1p(1e3 * one) for one in near),
        np.log1p(since / history.horizon_days),
        np.log1p(1e4 * fleet),
        *([np.log1p(day - state.first_seen[unit])] if _starts_differ(history) else []),
        *(trait[stays] for trait in history.traits.values()),
    ]
    features = np.stack(columns, axis=1).astype(np.float32)
    failing = _counted(history, day + history.lead_days, day + history.lead_days + history.horizon_days) > 0
    recent = _counted(history, day - _RECENT * history.horizon_days, day)
    rules = np.stack([recent[unit], state.past[unit], -since], axis=1)
    return unit, np.full(len(unit), day), features, failing[unit], rules


def _counted(history: FaultHistory, after: float, until: float) -> Floats:
    """Return how many faults each unit had after one day and until another."""
    rows = (history.event_day > after) & (history.event_day <= until)
    return np.bincount(history.event_unit[rows], minlength=len(history.units)).astype(np.float64)
