"""From steps to the whole run: what faults, restarts, checkpoints and loading data add.

With checkpoints every t seconds that halt the run for d, faults every M seconds on average and restarts of R, a run of
T seconds of steps takes M exp(R / M) (exp((t + d) / M) - 1) T / t, and the best t is sqrt(2 d M), corrected
(Daly, doi:10.1016/j.future.2004.11.016, equations 20 and 37; Young, doi:10.1145/361147.361115, is the first order).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import yaml
from numpy.typing import NDArray

from mofang.domain.estimate import Evidence
from mofang.domain.hardware import Pool
from mofang.domain.strategy import Method
from mofang.matching.codes import combinations
from mofang.matching.work import Work

__all__ = ["Losses", "Operations", "goodput_evidence", "losses", "operations"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SAVED = 12.0  # bytes a trained parameter in a checkpoint: fp32 weights and two moments


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """What ``data/operations.yaml`` says, under the same names."""

    faults_per_device_hour: Mapping[str, float]
    restart_s: float
    copy_bandwidth: float
    storage_bandwidth_per_node: float
    checkpoint_halt_s: float
    sample_bytes: Mapping[str, float]
    idle_power: float

    @property
    def fault_rate(self) -> float:
        """Faults of one device a second."""
        seen = self.faults_per_device_hour
        return seen["interruptions"] / (seen["days"] * 86400.0 * seen["devices"])


@cache
def operations() -> Operations:
    """Return the packaged figures; read once."""
    text = resources.files("mofang.matching").joinpath("data/operations.yaml").read_text(encoding="utf-8")
    return Operations(**yaml.safe_load(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Seconds that a run of some seconds of steps takes beside them; one row a candidate."""

    checkpoints: Floats
    faults: Floats  # work done again, and restarts
    loading: Floats
    interval: Floats  # seconds between checkpoints

    @property
    def seconds(self) -> Floats:
        """All of them together."""
        total: Floats = self.checkpoints + self.faults + self.loading
        return total


def losses(work: Work, pool: Pool, *, devices: Ints, nodes: Ints, step: Floats, run: Floats) -> Losses:
    """Return what a run of ``run`` seconds of steps of ``step`` seconds loses.

    On processor cores nothing is counted: nobody has published how often they fail, and the recipe writes its
    checkpoints beside the steps.
    """
    if pool.is_cpu:
        none = np.zeros_like(run)
        return Losses(checkpoints=none, faults=none, loading=none, interval=np.full_like(run, np.inf))
    known = operations()
    if devices.shape == run.shape:
        groups = combinations({"devices": devices, "nodes": nodes})
        place, (devices, nodes) = groups.place, (groups.columns[name] for name in ("devices", "nodes"))
    else:  # of a grid: few enough as they are
        place = np.arange(devices.size).reshape(devices.shape)
        devices, nodes = devices.ravel(), nodes.ravel()
    many, hosts = devices.astype(np.float64), nodes.astype(np.float64)
    state = _saved_params(work) * _SAVED
    halt = known.checkpoint_halt_s + state / (many * known.copy_bandwidth)
    between = 1.0 / (many * known.fault_rate)  # M
    written = state / (hosts * known.storage_bandwidth_per_node)
    interval = np.maximum(_best_interval(halt, between), written)
    load = work.global_batch * work.sample_bytes / (hosts * known.storage_bandwidth_per_node)
    longest = interval[place]
    checkpoints, faults = ((part[place] * run) for part in _parts(halt, between, interval))
    short = run < longest
    longest = np.broadcast_to(longest, run.shape)
    if short.any():  # one checkpoint, at the end
        longest, at = longest.copy(), np.broadcast_to(place, run.shape)[short]
        longest[short] = np.maximum(run[short], 1e-9)
        some = _parts(halt[at], between[at], longest[short])
        checkpoints[short], faults[short] = (part * run[short] for part in some)
    return Losses(checkpoints=checkpoints, faults=faults, loading=_loading(load, place, step, run), interval=longest)


def _parts(halt: Floats, between: Floats, interval: Floats) -> tuple[Floats, Floats]:
    """Return the seconds of checkpoints and of faults for each second of steps (Daly, equation 20)."""
    restart = np.exp(operations().restart_s / between)
    whole = between * restart * np.expm1((interval + halt) / between) / interval
    checkpoints = halt / interval
    return checkpoints, np.maximum(whole - 1.0 - checkpoints, 0.0)


def _loading(load: Floats, place: NDArray[np.intp], step: Floats, run: Floats) -> Floats:
    """Return the seconds of waiting for data: what loading a batch takes beyond the step before it."""
    if not step.size or float(load.max()) <= float(step.min()):
        return np.zeros_like(run)
    waiting: Floats = np.maximum(load[place] - step, 0.0) * (run / np.maximum(step, 1e-12))
    return waiting


def _best_interval(halt: Floats, between: Floats) -> Floats:
    """Return Daly's optimum (equation 37): first order, with its two corrections while halts are short."""
    part = halt / (2.0 * between)
    found = np.sqrt(2.0 * halt * between) * (1.0 + np.sqrt(part) / 3.0 + part / 9.0) - halt
    interval: Floats = np.where(part < 1.0, found, between)
    return interval


def _saved_params(work: Work) -> float:
    """Return how many parameters a checkpoint holds: all of them, or those of adapters."""
    if work.methods == (Method.FULL,):
        return float(work.model.params)
    rank = work.adapter.rank
    return 2.0 * rank * work.model.hidden * len(work.adapter.targets) * work.model.layers


def goodput_evidence(pool: Pool, found: Losses, devices: int, total: float) -> Evidence | None:
    """Return what the run loses, in words; None where nothing is counted."""
    if pool.is_cpu or total <= 0:
        return None
    parts = (("faults", found.faults), ("checkpoints", found.checkpoints), ("loading data", found.loading))
    shares = ", ".join(f"{name} {float(column[0]) / total:.1%}" for name, column in parts)
    hours = 1.0 / (devices * operations().fault_rate * 3600.0)
    return Evidence(
        what=f"time to finish: {shares} (a fault every {hours:,.0f} h on {devices} devices, a checkpoint every "
        f"{float(found.interval[0]) / 60.0:.3g} min)",
        source="arXiv:2407.21783 section 3.3.4 (faults), doi:10.1016/j.future.2004.11.016 (checkpoint interval)",
    )
