"""Simulated telemetry of a node with devices: what cannot be injected on any machine at hand.

The shapes are those that operators describe (heat creeping up until clocks fall, corrected errors that multiply before
uncorrected ones, links that replay, a device that no longer answers); their sizes are drawn widely, because no public
trace says how large they are. Nothing here is measured, and whatever is learned from it is called simulated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mofang.recovery.prediction.short_lead.traces import NO_FAULT, Trace
from mofang.recovery.telemetry.series import Series

__all__ = ["KINDS", "simulate_trace"]

Floats = NDArray[np.float64]
Columns = dict[str, Floats]
Generator = np.random.Generator

DEVICES = 4
RANKS = 4
_QUIET_S = (130.0, 260.0)
_LENGTH_S = (20.0, 180.0)
_NORMAL_S = 1800.0
_LIMIT = 90.0


def _heat(columns: Columns, part: Floats, chance: Generator) -> None:
    device = _one(chance)
    columns[f"{device}.temperature"] += part * chance.uniform(15.0, 32.0)
    fall = np.clip(columns[f"{device}.temperature"] - (_LIMIT - 4.0), 0.0, 8.0) / 8.0
    columns[f"{device}.clock"] *= 1.0 - 0.5 * fall
    columns[f"{device}.slowed"] = np.maximum(columns[f"{device}.slowed"], fall > 0.05)
    _slow(columns, 1.0 / (1.0 - 0.5 * fall))


def _memory_errors(columns: Columns, part: Floats, chance: Generator) -> None:
    device = _one(chance)
    rate = chance.uniform(0.05, 1.0) * part * np.exp(3.0 * part)
    columns[f"{device}.ecc_corrected"] += np.cumsum(chance.poisson(rate))
    late = part > chance.uniform(0.6, 0.95)
    if chance.random() < 0.7:
        columns[f"{device}.rows_remapped"] += np.cumsum(chance.poisson(0.1 * late))
    if chance.random() < 0.4:
        columns["xid"] += np.cumsum(chance.poisson(0.15 * late))


def _link(columns: Columns, part: Floats, chance: Generator) -> None:
    device = _one(chance)
    name = chance.choice(["link_errors", "pcie_replays"])
    columns[f"{device}.{name}"] += np.cumsum(chance.poisson(chance.uniform(0.2, 4.0) * part))
    _slow(columns, 1.0 + chance.uniform(0.0, 0.6) * part)


def _network(columns: Columns, part: Floats, chance: Generator) -> None:
    name = chance.choice(["network.errors", "network.drops"])
    columns[name] += np.cumsum(chance.poisson(chance.uniform(0.3, 8.0) * part))
    _slow(columns, 1.0 + chance.uniform(0.0, 1.5) * part * (chance.random(len(part)) < 0.5))


def _lost_device(columns: Columns, part: Floats, chance: Generator) -> None:
    """Monitoring ends shortly before the job does."""
    begin = int(np.argmax(part > chance.uniform(0.6, 0.95)))
    if part[-1] > 0:
        columns["silent.nvidia"][begin:] = np.arange(len(part) - begin)
        for name in list(columns):
            if name.startswith("device."):
                columns[name][begin:] = np.nan


def _abrupt(_columns: Columns, _part: Floats, _chance: Generator) -> None:
    """Give no sign: most real faults may well be of this kind."""


KINDS: dict[str, Callable[[Columns, Floats, Generator], None]] = {
    "heat": _heat,
    "memory errors": _memory_errors,
    "link": _link,
    "network": _network,
    "lost device": _lost_device,
    "abrupt": _abrupt,
    NO_FAULT: _abrupt,
}


def simulate_trace(kind: str, seed: int) -> Trace:
    """Return a node's telemetry, one sample a second, up to a fault of a kind or, without one, for half an hour."""
    chance = np.random.default_rng(seed)
    quiet = chance.uniform(*_QUIET_S)
    length = _LENGTH_S[0] * (_LENGTH_S[1] / _LENGTH_S[0]) ** chance.random()
    total = _NORMAL_S if kind == NO_FAULT else quiet + length
    time = np.arange(0.0, total)
    part = np.clip((time - quiet) / length, 0.0, 1.0) ** chance.choice((0.7, 1.0, 2.0))
    columns = _healthy(time, chance)
    _disturb(columns, chance)
    if kind != NO_FAULT:
        KINDS[kind](columns, part, chance)
    return Trace(series=Series(time=time, columns=columns), fault=kind, end=total, source="simulated", seed=seed)


def _healthy(time: Floats, chance: Generator) -> Columns:
    many = len(time)
    step = chance.uniform(0.2, 3.0)
    jitter = chance.uniform(0.01, 0.08)
    common = np.exp(jitter * chance.standard_normal(many))
    columns: Columns = {
        "cpu.busy": np.clip(chance.uniform(0.1, 0.6) + 0.05 * chance.standard_normal(many), 0.0, 1.0),
        "memory.total": np.full(many, 1e12),
        "memory.available": chance.uniform(0.4, 0.8) * 1e12 + 2e9 * chance.standard_normal(many),
        "disk.latency_s": np.exp(np.log(0.5e-3) + 0.5 * chance.standard_normal(many)),
        "network.errors": np.zeros(many),
        "network.drops": np.cumsum(chance.poisson(0.002, many)).astype(np.float64),
        "xid": np.zeros(many),
        "silent.nvidia": np.zeros(many),
        "heat.host": 55.0 + chance.standard_normal(many),
    }
    for name in ("cpu", "memory", "io"):
        columns[f"pressure.{name}"] = np.clip(0.02 + 0.02 * chance.standard_normal(many), 0.0, 1.0)
    for rank in range(RANKS):
        columns[f"rank.{rank}.step_s"] = step * common * np.exp(0.002 * chance.standard_normal(many))
        columns[f"rank.{rank}.busy_s"] = 0.8 * step * np.exp(jitter * chance.standard_normal(many))
        columns[f"rank.{rank}.silent_s"] = step * chance.random(many)
    for index in range(DEVICES):
        columns |= _device(f"device.{index}", time, chance)
    return columns


def _device(name: str, time: Floats, chance: Generator) -> Columns:
    many = len(time)
    slow = 3.0 * np.sin(2.0 * np.pi * (time / chance.uniform(600.0, 3600.0) + chance.random()))  # the machine room
    quiet = ("ecc_uncorrected", "rows_remapped", "pages_retired", "slowed")
    return {
        **{f"{name}.{one}": np.zeros(many) for one in quiet},
        f"{name}.temperature": np.round(chance.uniform(55.0, 74.0) + slow + chance.standard_normal(many)),
        f"{name}.temperature_limit": np.full(many, _LIMIT),
        f"{name}.power": 650.0 + 30.0 * chance.standard_normal(many),
        f"{name}.clock": 1755.0 - 15.0 * chance.integers(0, 4, many),
        f"{name}.ecc_corrected": np.cumsum(chance.poisson(0.0005, many)).astype(np.float64),
        f"{name}.pcie_replays": np.cumsum(chance.poisson(0.001, many)).astype(np.float64),
        f"{name}.link_errors": np.cumsum(chance.poisson(0.001, many)).astype(np.float64),
    }


def _disturb(columns: Columns, chance: Generator) -> None:
    """Add what looks like trouble and is none."""
    many = len(columns["cpu.busy"])
    place = 0
    while (place := place + int(chance.exponential(150.0)) + 5) < many:
        until = min(place + int(chance.choice((5, 10, 20, 60))), many)
        rows = slice(place, until)
        match chance.choice(("checkpoint", "burst of errors", "warm", "slow", "reading")):
            case "checkpoint":
                columns["disk.latency_s"][rows] *= chance.uniform(3.0, 40.0)
                columns["pressure.io"][rows] += chance.uniform(0.0, 0.5)
            case "burst of errors":
                device, grown = _one(chance), float(chance.integers(1, 6))
                columns[f"{device}.{chance.choice(['ecc_corrected', 'pcie_replays', 'link_errors'])}"][place:] += grown
            case "warm":
                columns[f"{_one(chance)}.temperature"][rows] += chance.uniform(2.0, 10.0)
            case "slow":
                factor = np.ones(many)
                factor[rows] = chance.uniform(1.05, 1.8)
                _slow(columns, factor)
            case _:
                columns["memory.available"][place:] -= chance.uniform(0.0, 0.05) * 1e12


def _slow(columns: Columns, factor: Floats) -> None:
    for rank in range(RANKS):
        columns[f"rank.{rank}.step_s"] *= factor


def _one(chance: Generator) -> str:
    return f"device.{chance.integers(0, DEVICES)}"
