"""What is known of a fleet's faults: which units were in service when and where, and when which of them failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FaultHistory", "joined"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultHistory:
    """Columns; all times are days on one scale.

    A *unit* is what fails: a node or a device. A *stay* is a unit in one place for a while. A *neighbourhood* is what
    may fail together: a cabinet, or a system.
    """

    name: str  # of the set
    task: str  # what is predicted, in words
    horizon_days: float  # a fault within so many days is to be predicted
    step_days: float  # between two predictions for one unit
    lead_days: float = 0.0  # a fault sooner than this comes too soon to act on, and is not counted
    begin: float
    end: float  # what happened after it is not known
    units: Sequence[str]
    neighbourhoods: Sequence[str]
    stay_unit: Ints
    stay_neighbourhood: Ints
    stay_begin: Floats
    stay_end: Floats
    traits: Mapping[str, Floats]  # what is fixed for a stay, by name: cage, memory ...
    event_unit: Ints
    event_neighbourhood: Ints
    event_day: Floats


def joined(earlier: FaultHistory, later: FaultHistory) -> FaultHistory:
    """Return two parts of one history as one; units and places are told apart by their names.

    A stay that had not ended with the earlier part ends there for a unit that the later part knows: that one says where
    the unit is from then on. What the later part repeats of the earlier one's time counts once.
    """
    news = later.event_day > earlier.end
    units, unit = _merged(earlier.units, later.units)
    places, place = _merged(earlier.neighbourhoods, later.neighbourhoods)
    told = np.isin(earlier.stay_unit, unit[later.stay_unit])
    known = np.isin(unit[later.stay_unit], earlier.stay_unit)
    both = (earlier, later)
    return FaultHistory(
        name=later.name,
        task=later.task,
        horizon_days=later.horizon_days,
        step_days=later.step_days,
        lead_days=later.lead_days,
        begin=min(earlier.begin, later.begin),
        end=max(earlier.end, later.end),
        units=units,
        neighbourhoods=places,
        stay_unit=np.concatenate([earlier.stay_unit, unit[later.stay_unit]]),
        stay_neighbourhood=np.concatenate([earlier.stay_neighbourhood, place[later.stay_neighbourhood]]),
        stay_begin=np.concatenate(
            [earlier.stay_begin, np.where(known, np.maximum(later.stay_begin, earlier.end), later.stay_begin)]
        ),
        stay_end=np.concatenate(
            [np.where(told, np.minimum(earlier.stay_end, earlier.end), earlier.stay_end), later.stay_end]
        ),
        traits={name: np.concatenate([one.traits[name] for one in both]) for name in earlier.traits},
        event_unit=np.concatenate([earlier.event_unit, unit[later.event_unit[news]]]),
        event_neighbourhood=np.concatenate([earlier.event_neighbourhood, place[later.event_neighbourhood[news]]]),
        event_day=np.concatenate([earlier.event_day, later.event_day[news]]),
    )


def _merged(first: Sequence[str], second: Sequence[str]) -> tuple[list[str], Ints]:
    """Return all names once, and the place of each of the second among them."""
    names = list(dict.fromkeys([*first, *second]))
    index = {name: place for place, name in enumerate(names)}
    return names, np.array([index[name] for name in second], dtype=np.int64)
