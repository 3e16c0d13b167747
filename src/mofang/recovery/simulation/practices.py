"""What a site does about faults: how often it saves, how fast it sees a fault, and how a job comes back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from mofang.recovery.simulation.measured import Measured, measured_delays

__all__ = ["Practice", "Predictor", "packaged_practices", "practice_of"]


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
    """Return the practices to compare, by name; ``sources`` says where each delay comes from.

    A delay is measured where ``measured_delays`` has all that it is made of, and the operating point of the predictor
    is that of the packaged short-lead model; what else the file holds is published, or called an assumption there.
    """
    text = resources.files("mofang.recovery.simulation").joinpath("data/practices.yaml").read_text(encoding="utf-8")
    return {name: practice_of(row, measured_delays()) for name, row in yaml.safe_load(text).items()}


def practice_of(row: Mapping[str, Any], measured: Mapping[str, Measured]) -> Practice:
    """Return the practice that a row of the file describes.

    Args:
        row: delays, ``sources``, ``predictor`` (figures, or ``packaged``), and ``measured``: which figures a delay is
            made of, and how many times each.
        measured: the figures at hand.
    """
    known = dict(row)
    sources = dict(known.pop("sources", {}))
    for delay, parts in known.pop("measured", {}).items():
        if set(parts) <= set(measured):
            known[delay] = sum(float(times) * measured[name].value for name, times in parts.items())
            sources[delay] = " + ".join(f"{times:g} x {measured[name].source}" for name, times in parts.items())
    predictor = known.pop("predictor", None)
    if predictor == "packaged":
        found = packaged_predictor(known["stall_s"])
        sources["predictor"] = "the packaged short-lead model on traces held apart: injected and simulated faults"
    else:
        found = None if predictor is None else Predictor(**predictor)
    return Practice(**known, predictor=found, sources=sources)


def packaged_predictor(stall_s: float) -> Predictor | None:
    """Return the packaged short-lead model at its measured operating point; None where it sees nothing coming.

    Of the stalls that it was judged for, the nearest counts. False alarms are those a node and day on traces held
    apart, and half a one more, so that none seen does not mean that there is none (Jeffreys' prior of a Poisson rate).
    They are set against the published rate of faults.
    """
    file = resources.files("mofang.recovery.prediction").joinpath("data/short_lead.json")
    points = json.loads(file.read_text(encoding="utf-8"))["score"]["points"]
    point = min(points, key=lambda one: abs(math.log(one["stall_s"] / max(stall_s, 1e-6))))
    if not point["recall"]:
        return None
    false = point["false_a_node_day"] + 0.5 / point["quiet_days"]
    true = point["recall"] * point["node_hazard_per_s"] * 86400.0
    return Predictor(recall=point["recall"], precision=true / (true + false), lead_s=point["lead_s"]["median"])
