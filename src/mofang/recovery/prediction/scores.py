"""How good predicted risks are: ranking (AUPRC, AUROC), calibration, and bootstrap intervals over units."""

from __future__ import annotations

import numpy as np

from mofang.recovery.prediction.history import Bools, Floats, Ints

__all__ = ["auprc", "auroc", "calibration_error", "gain_interval"]


def auprc(failed: Bools, risk: Floats) -> float:
    """Return the average precision; equal risks count as one step (Davis and Goadrich, doi:10.1145/1143844.1143874)."""
    total = int(failed.sum())
    if total == 0:
        return float("nan")
    order = np.argsort(-risk, kind="stable")
    hits = np.cumsum(failed[order])
    last = np.append(np.flatnonzero(np.diff(risk[order])), len(order) - 1)  # of each run of equal risks
    precision = hits[last] / (last + 1.0)
    return float(np.sum(precision * np.diff(hits[last], prepend=0)) / total)


def auroc(failed: Bools, risk: Floats) -> float:
    """Return the chance that a unit that failed had the higher risk, ties one half (Mann and Whitney)."""
    many = int(failed.sum())
    if many in (0, len(failed)):
        return float("nan")
    _, place, count = np.unique(risk, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2.0
    return float((rank[place][failed].sum() - many * (many + 1) / 2.0) / (many * (len(failed) - many)))


def calibration_error(failed: Bools, risk: Floats, bins: int = 10) -> float:
    """Return the expected calibration error over bins of equally many rows (arXiv:1706.04599, equation 3)."""
    order = np.argsort(risk, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return float(sum(len(part) * abs(failed[part].mean() - risk[part].mean()) for part in parts) / len(failed))


def gain_interval(
    failed: Bools, risk: Floats, trivial: Floats, unit: Ints, *, seed: int = 0, draws: int = 200
) -> tuple[float, float]:
    """Return the 95 % interval of the gain in AUPRC over the trivial rule: units are drawn with replacement."""
    if not failed.any():
        return float("nan"), float("nan")
    chance = np.random.default_rng(seed)
    order = np.argsort(unit, kind="stable")
    known, first, count = np.unique(unit[order], return_index=True, return_counts=True)
    gains = []
    for _ in range(draws):
        chosen = chance.integers(0, len(known), len(known))
        rows = order[_ranges(first[chosen], count[chosen])]
        gains.append(auprc(failed[rows], risk[rows]) - auprc(failed[rows], trivial[rows]))
    low, high = np.nanpercentile(gains, [2.5, 97.5])
    return float(low), float(high)


def _ranges(first: Ints, count: Ints) -> Ints:
    """Return the numbers of all ranges in a row: ``first``, ``first + 1`` ..., ``count`` of each."""
    ends = np.cumsum(count)
    return np.arange(int(ends[-1])) - np.repeat(ends - count, count) + np.repeat(first, count)
