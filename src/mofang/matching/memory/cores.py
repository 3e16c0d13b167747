"""Bytes of one worker of a training job where the devices are processor cores: the project's own recipes.

Weights, gradients and AdamW's two moments in fp32 are counted exactly. Everything else lives in the C library's heap,
which keeps what is freed and reuses it as well as it can: how often each kind of tensor is there at once, holes
included, was measured (``data/memory_cores.yaml``, written by ``benchmarks/memory_coefficients.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.domain.model import ModelArchitecture
from mofang.domain.strategy import Method, Recompute, Sharding
from mofang.matching.candidates import METHODS, PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.coefficients import coefficients
from mofang.matching.memory.weights import adapters_of
from mofang.matching.work import Work

__all__ = ["FEATURES", "CoreMemory", "core_features", "core_parts", "core_state"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Every feature is bytes of something; the part it counts towards.
FEATURES = {
    "worker": "framework",  # a worker that has loaded torch and holds no model
    "compiler": "framework",  # the same, where recomputation or FSDP loads torch's compiler
    "logits": "logits",  # of a micro-batch in fp32, computed in fp32
    "half_logits": "logits",  # the same, computed in 16 bits
    "kept": "activations",  # what blocks keep for their backward pass
    "passing": "activations",  # what the block that is passed backward keeps
    "table": "buffers",  # the gradient of an untied table
    "tied_table": "buffers",
    "block": "buffers",  # weights of the largest block
    "gathered_tables": "buffers",  # under FSDP: of all tables
    "gathered_tied_table": "buffers",  # on top, where one table is both
    "held_tables": "buffers",  # the same where several micro-batches add up
    "gathered_block": "buffers",
    "held_blocks": "buffers",  # gradients of all blocks where several micro-batches add up
    "fsdp_logits": "logits",
    "fsdp_kept": "activations",
}


@cache
def _fitted() -> Mapping[str, Any]:
    text = resources.files("mofang.matching").joinpath("data/memory_cores.yaml").read_text(encoding="utf-8")
    rows: Mapping[str, Any] = yaml.safe_load(text)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreMemory:
    """Candidates whose devices are cores."""

    work: Work
    pool: Pool
    candidates: Candidates

    def where(self, rows: Ints | slice) -> CoreMemory:
        """Return some of the candidates (of a grid, some layouts)."""
        return replace(self, candidates=self.candidates.where(rows))

    def parts(self) -> Mapping[str, Floats]:
        """Return bytes by part of one worker."""
        return core_parts(self.work, self.pool, self.candidates)

    def bytes(self) -> Floats:
        """Return the bytes of one worker."""
        return sum(self.parts().values(), np.zeros(self.candidates.shape))


def core_parts(work: Work, pool: Pool, candidates: Candidates) -> Mapping[str, Floats]:
    """Return bytes by part of one worker; ``fragmentation`` is the margin that covers most misses of the others."""
    fitted = _fitted()
    parts = {name: np.zeros(candidates.shape) for name in ("activations", "logits", "buffers", "framework")}
    for name, size in core_features(work, pool, candidates).items():
        parts[FEATURES[name]] = parts[FEATURES[name]] + fitted["times"][name] * size
    parts = {**core_state(work, candidates), **parts}
    total = sum(parts.values(), np.zeros(candidates.shape))
    return {**parts, "fragmentation": fitted["margin"] * total}


def core_state(work: Work, candidates: Candidates) -> dict[str, Floats]:
    """Return bytes of weights, gradients and optimiser state that one worker holds."""
    shared = np.where(_sharded(candidates), candidates.dp, 1)
    params = np.full(candidates.shape, float(work.model.params))
    adapters = adapters_of(work.model, work.adapter).block * work.model.layers
    full = candidates.method == METHODS.index(Method.FULL)
    trained = 4.0 * np.where(full, params, adapters)
    frozen = np.where(full, 0.0, _elements(candidates) * params)  # kept in the type that products run in
    return {"weights": (frozen + trained) / shared, "gradients": trained / shared, "optimizer": 2.0 * trained / shared}


def core_features(work: Work, pool: Pool, candidates: Candidates) -> Mapping[str, Floats]:
    """Return the sizes in bytes that the rest of a worker's memory follows from, by name (``FEATURES``)."""
    model, sharded = work.model, _sharded(candidates)
    recomputed = candidates.recompute == RECOMPUTES.index(Recompute.FULL)
    several = candidates.accumulation > 1
    element = _elements(candidates)
    tokens = candidates.micro_batch.astype(np.float64) * work.sequence
    passing = tokens * element * _saved_per_token(model)
    kept = np.where(recomputed, tokens * element * model.hidden, passing) * model.layers
    logits = 4.0 * model.vocab * tokens * (1.0 if work.head_tokens is None else work.head_tokens / work.sequence)
    table, tables = 4.0 * model.vocab * model.hidden, 4.0 * model.embedding_params
    block, blocks = 4.0 * _block_params(model), 4.0 * (model.params - model.embedding_params)
    worker = _worker(pool)
    tied = np.full(candidates.shape, model.tied_embeddings)
    always = np.ones(candidates.shape, dtype=np.bool_)
    sizes: dict[str, tuple[float | Floats, Mask]] = {
        "worker": (worker, always),
        "compiler": (worker, recomputed | sharded),
        "logits": (logits, ~sharded & (element >= 4)),
        "half_logits": (logits, ~sharded & (element < 4)),
        "kept": (kept, ~sharded),
        "passing": (passing, always),
        "table": (table, ~sharded & ~tied),
        "tied_table": (table, ~sharded & tied),
        "block": (block, ~sharded),
        "gathered_tables": (tables, sharded),
        "gathered_tied_table": (tables, sharded & tied),
        "held_tables": (tables, sharded & several),
        "gathered_block": (block, sharded),
        "held_blocks": (blocks, sharded & several),
        "fsdp_logits": (logits, sharded),
        "fsdp_kept": (kept, sharded),
    }
    return {name: np.where(there, size, 0.0) for name, (size, there) in sizes.items()}


def _elements(candidates: Candidates) -> Floats:
    return np.array([precision.bytes for precision in PRECISIONS])[candidates.precision]


def _sharded(candidates: Candidates) -> Mask:
    sharded: Mask = candidates.sharding == SHARDINGS.index(Sharding.FSDP)
    return sharded


def _block_params(model: ModelArchitecture) -> float:
    """Return the parameters of the largest block."""
    return float(max(model.layer_params(0), model.layer_params(model.layers - 1)))


def _saved_per_token(model: ModelArchitecture) -> float:
    """Return the elements a block keeps for its backward pass, a token.

    Four of the width (both norms' inputs and outputs), the merged projection, its rotated part, attention's output, and
    gate, up, silu(gate) and their product.
    """
    moe = model.moe
    ffn = float(model.ffn) if moe is None else moe.top_k * (moe.expert_ffn + model.hidden / 4) + moe.shared_ffn
    query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
    return 4.0 * model.hidden + 3.0 * query + 3.0 * key + (4.0 if model.gated_ffn else 2.0) * ffn


def _worker(pool: Pool) -> float:
    measured = pool.rates.worker_memory_bytes if pool.rates is not None else 0
    return float(measured) or coefficients().framework_bytes["cpu"]
