"""What a site does about faults: how often it saves, how fast it sees a fault, and how a job comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

__all__ = ["Practice", "Predictor", "packaged_practices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A fault predictor at its operating point."""

    recall: float  # part of the faults that it sees coming in time
    precision: float  # part of its alarms that a fault follows
    lead_s: float  # from the end of the snapshot that an alarm causes to the fault

    @property
    def false_alarms(self) -> float:
        """False alarms for each fault."""
        return self.recall * (1.0 - self.precision) / self.precision if self.recall else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Practice:
    """One way to live with faults. Seconds, unless a name says otherwise."""

    title: str
    stall_s: float  # the training's halt for one snapshot
    interval_s: float | None  # between snapshots; None: the optimum of Young and Daly
    settle_s: float = 0.0  # from a snapshot until a lost node cannot take it along (it is on a peer, or on disk)
    durable_s: float = (
        0.0  # work lost when a node and the peer with its snapshot fail together; 0: snapshots are durable
    )
    detect_s: float
    replace_s: float  # to have another node in the place of the lost one
    restart_s: float  # processes, communicators and state, until the next step
    shrink: bool = False  # goes on with fewer nodes while there is no spare
    predictor: Predictor | None = None
    sources: Mapping[str, str] | None = None


@cache
def packaged_practices() -> Mapping[str, Practice]:
    """Return the practices to compare, by name; the file says where each delay comes from."""
    text = resources.files("mofang.recovery.simulation").joinpath("data/practices.yaml").read_text(encoding="utf-8")
    return {name: _practice(row) for name, row in yaml.safe_load(text).items()}


def _practice(row: Mapping[str, object]) -> Practice:
    known = dict(row)
    found = known.pop("predictor", None)
    return Practice(**known, predictor=Predictor(**found) if isinstance(found, dict) else None)  # type: ignore[arg-type]
