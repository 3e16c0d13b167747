"""The layouts that a measurement may have been taken with: what is stated, and the field's defaults for the rest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from mofang.catalog.frameworks import Framework
from mofang.domain.hardware import Pool, Precision
from mofang.domain.measurement import TrainingMeasurement
from mofang.domain.model import ModelArchitecture
from mofang.domain.strategy import Method, Offload, Recompute, Sharding
from mofang.matching.candidates import METHODS, OFFLOADS, PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.estimate import estimate
from mofang.matching.work import Work

__all__ = ["Choice", "Options", "choose", "options"]

_PRETRAIN_TOKENS = 4e6  # in one step, where the source does not say
_FINETUNE_SEQUENCES = 32
_USABLE = 1.2  # part of a memory that a job which ran may seem to fill: the estimate of memory errs too


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Candidates that all train ``global_batch`` sequences in a step."""

    candidates: Candidates
    global_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One row of candidates, and what physics alone predicts for it: seconds of a step, bytes of the fullest device."""

    candidates: Candidates
    step_time: float
    memory_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    tp: int
    pp: int
    cp: int
    ep: int
    dp: int


def options(
    row: TrainingMeasurement, model: ModelArchitecture, pool: Pool, framework: Framework | None, sequence: int
) -> Options:
    """Return every layout that agrees with what the row states; none where that contradicts itself."""
    cuts = list(_cuts(row, model, pool, framework))
    micro_batch = row.micro_batch or 1
    batch = row.global_batch or _global_batch(row, sequence, cuts, micro_batch)
    whole = [cut for cut in cuts if batch % (cut.dp * micro_batch) == 0]
    # Some sources state a batch that the ranks do not share evenly; the layout is kept, and the batch rounded up.
    kept = whole or cuts[:1]
    micro_batches = [max(1, min(micro_batch, batch // cut.dp)) for cut in kept]
    steps = [-(-batch // (cut.dp * size)) for cut, size in zip(kept, micro_batches, strict=True)]
    if not whole and kept:
        batch = kept[0].dp * micro_batches[0] * steps[0]
    given = _given(row, pool)
    rows = [
        {**given, **_cut_columns(row, framework, cut), "micro_batch": size, "accumulation": count, "recompute": code}
        for cut, size, count in zip(kept, micro_batches, steps, strict=True)
        for code in _recomputes(row, framework)
    ]
    return Options(candidates=_candidates(rows), global_batch=batch)


def choose(work: Work, pool: Pool, candidates: Candidates, framework: Framework | None) -> Choice:
    """Return the one row that is predicted to be the fastest of those that fit; the smallest where none does."""
    found = estimate(work, pool, candidates, framework)
    memory, seconds = found.memory_bytes, found.step_time
    fits = memory <= _USABLE * pool.accelerator.memory_bytes
    best = int(np.argmin(np.where(fits, seconds, np.inf) if fits.any() else memory))
    return Choice(
        candidates=candidates.where(np.array([best])),
        step_time=float(seconds[best]),
        memory_bytes=float(memory[best]),
    )


def _cuts(
    row: TrainingMeasurement, model: ModelArchitecture, pool: Pool, framework: Framework | None
) -> Iterator[_Cut]:
    count, known = row.num_devices or 1, frozenset() if framework is None else framework.cuts
    tps = _degrees(row.tp, "tp" in known, min(pool.devices_per_node, 8), model.heads)
    pps = _degrees(row.pp, "pp" in known, count, None, most=model.layers)
    for tp, pp in itertools.product(tps, pps):
        cp = row.cp or 1
        dp, rest = divmod(count, tp * pp * cp)
        if rest or not dp:
            continue
        for ep in _expert_degrees(row, model, dp * cp * tp):
            yield _Cut(tp=tp, pp=pp, cp=cp, ep=ep, dp=dp)


def _degrees(stated: int | None, able: bool, most_ranks: int, divides: int | None, most: int = 64) -> Sequence[int]:
    if stated is not None or not able:
        return (stated or 1,)
    powers = (1 << power for power in range(7))
    return [size for size in powers if size <= min(most_ranks, most) and (divides is None or divides % size == 0)]


def _expert_degrees(row: TrainingMeasurement, model: ModelArchitecture, ranks: int) -> Sequence[int]:
    if model.moe is None:
        return (1,)
    if row.ep is not None:
        return (row.ep,) if ranks % row.ep == 0 else ()
    powers = (1 << power for power in range(8))
    return [size for size in powers if ranks % size == 0 and model.moe.num_experts % size == 0]


def _global_batch(row: TrainingMeasurement, sequence: int, cuts: Sequence[_Cut], micro_batch: int) -> int:
    if not cuts:
        return 0
    step = max(cut.dp for cut in cuts) * micro_batch
    if row.framework == "torchtitan":
        return step  # it accumulates nothing unless a batch is stated
    pretraining = row.method is Method.FULL and row.task.startswith("pretrain")
    wanted = _PRETRAIN_TOKENS / sequence if pretraining else _FINETUNE_SEQUENCES
    return step * max(1, round(wanted / step))


def _recomputes(row: TrainingMeasurement, framework: Framework | None) -> Sequence[int]:
    if row.recompute is not None:
        return (RECOMPUTES.index(row.recompute),)
    known = frozenset(Recompute) if framework is None else framework.recomputes
    return [code for code, one in enumerate(RECOMPUTES) if one in known] or [RECOMPUTES.index(Recompute.NONE)]


def _sharding(row: TrainingMeasurement, framework: Framework | None, ranks: int) -> Sharding:
    """Return how the ``ranks`` that hold the same weights, data x context parallel, share their state."""
    if ranks == 1:
        return Sharding.NONE
    if row.framework == "megatron" and row.sharding is Sharding.DDP:
        return Sharding.ZERO1  # its sources say "DDP" for "not FSDP"; the optimizer is its distributed one
    if row.sharding is not None and row.sharding is not Sharding.NONE:
        return row.sharding
    known = frozenset() if framework is None else framework.shardings
    return next((one for one in (Sharding.ZERO1, Sharding.FSDP) if one in known), Sharding.DDP)


def _compiled(row: TrainingMeasurement) -> bool:
    return row.framework not in {"torchtitan", "pytorch"} or "compile" in row.notes.casefold()


def _given(row: TrainingMeasurement, pool: Pool) -> dict[str, int]:
    devices = row.num_devices or 1
    return {
        "nodes": -(-devices // pool.devices_per_node),
        "devices": devices,
        "threads": 1,
        "precision": PRECISIONS.index(row.precision or Precision.BF16),
        "compile": int(_compiled(row)),
        "method": METHODS.index(row.method),
        "offload": OFFLOADS.index(Offload.NONE),
    }


def _cut_columns(row: TrainingMeasurement, framework: Framework | None, cut: _Cut) -> dict[str, int]:
    return {
        "dp": cut.dp,
        "tp": cut.tp,
        "pp": cut.pp,
        "cp": cut.cp,
        "ep": cut.ep,
        "vpp": (row.vpp or 1) if cut.pp > 1 else 1,
        "sharding": SHARDINGS.index(_sharding(row, framework, cut.dp * cut.cp)),
    }


def _candidates(rows: Sequence[dict[str, int]]) -> Candidates:
    names = [field.name for field in fields(Candidates)]
    return Candidates(**{name: np.array([row[name] for row in rows], dtype=np.int64) for name in names})
