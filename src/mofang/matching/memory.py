"""Bytes of a training job on one device, or in one worker where the devices are cores; array-at-a-time.

Weights, gradients and AdamW's two moments in fp32 (16 bytes a parameter together); activations after arXiv:2205.05198,
section 4, counted again for SwiGLU, grouped-query and fused attention.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.domain.model import ModelArchitecture
from mofang.domain.strategy import Recompute, Sharding
from mofang.matching.candidates import PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.coefficients import coefficients
from mofang.matching.work import Work

__all__ = ["block_params", "element_bytes", "host_bytes", "memory_parts", "saved_per_token"]

Floats = NDArray[np.float64]

_STATE_BYTES = 16  # weight, gradient and two moments in fp32


def element_bytes(candidates: Candidates) -> Floats:
    """Return the bytes of one element in each candidate's precision."""
    return np.array([precision.bytes for precision in PRECISIONS], dtype=np.float64)[candidates.precision]


def block_params(model: ModelArchitecture) -> float:
    """Return the parameters of the largest block."""
    return float(max(model.layer_params(0), model.layer_params(model.layers - 1)))


def saved_per_token(model: ModelArchitecture) -> float:
    """Return the elements a block keeps for its backward pass, a token.

    Four of the width (both norms' inputs and outputs), the merged projection, its rotated part, attention's output, and
    gate, up, silu(gate) and their product.
    """
    moe = model.moe
    ffn = (
        float(model.ffn) if moe is None else moe.top_k * moe.expert_ffn + moe.shared_ffn + moe.top_k * model.hidden / 4
    )
    query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
    return 4.0 * model.hidden + 3.0 * query + 3.0 * key + (4.0 if model.gated_ffn else 2.0) * ffn


def memory_parts(task: Work, pool: Pool, candidates: Candidates) -> Mapping[str, Floats]:
    """Return bytes by part: weights, gradients, optimizer, activations, logits, framework."""
    model = task.model
    kind = "cpu" if pool.is_cpu else "accelerator"
    element = element_bytes(candidates)
    sharded = candidates.sharding == SHARDINGS.index(Sharding.FSDP)
    state = 4.0 * model.params / np.where(sharded, candidates.dp, 1)
    tokens = candidates.micro_batch.astype(np.float64) * task.sequence
    loose = coefficients().fragmentation[kind]
    return {
        "weights": state + _working_weights(model, candidates, element, sharded),
        "gradients": state + _working_gradients(model, candidates, sharded),
        "optimizer": 2.0 * state,
        "activations": loose * _activations(model, candidates, tokens, element),
        "logits": loose * tokens * model.vocab * np.where(element < 4, 14.0, 12.0),
        "framework": np.full(len(candidates), _framework(pool, kind)),
    }


def _working_weights(
    model: ModelArchitecture, candidates: Candidates, element: Floats, sharded: NDArray[np.bool_]
) -> Floats:
    """Copies of weights: gathered blocks (this one and the next) and tables, or casts kept for the backward pass."""
    blocks, tables = block_params(model), float(model.embedding_params)
    gathered = (2.0 * blocks + tables) * element
    whole = candidates.recompute == RECOMPUTES.index(Recompute.FULL)
    cast = np.where(element < 4, element * np.where(whole, blocks, float(model.matmul_params)), 0.0)
    return np.where(sharded, gathered, cast)


def _working_gradients(model: ModelArchitecture, candidates: Candidates, sharded: NDArray[np.bool_]) -> Floats:
    """Gradients not yet reduced: of one block, or of everything where several micro-batches add up first."""
    several = candidates.accumulation > 1
    return np.where(sharded, 4.0 * np.where(several, float(model.params), block_params(model)), 0.0)


def _activations(model: ModelArchitecture, candidates: Candidates, tokens: Floats, element: Floats) -> Floats:
    block = saved_per_token(model)
    whole = candidates.recompute == RECOMPUTES.index(Recompute.FULL)
    kept = np.where(whole, model.layers * model.hidden + block, model.layers * block)
    # The gradients of one block's activations live beside them while it is passed backward.
    return tokens * element * (kept + block)


def _framework(pool: Pool, kind: str) -> float:
    measured = pool.rates.worker_memory_bytes if pool.rates is not None and pool.is_cpu else 0
    return float(measured) * 1.25 or coefficients().framework_bytes[kind]


def host_bytes(task: Work, pool: Pool, candidates: Candidates, device_bytes: Floats) -> Floats:
    """Return the host memory the job needs on each node."""
    workers = candidates.workers / candidates.nodes
    if pool.is_cpu:
        return workers * device_bytes
    # A checkpoint passes through host memory: each rank's share of weights and moments.
    staged = 0.75 * _STATE_BYTES * task.model.params / candidates.dp
    return workers * (coefficients().framework_bytes["host"] + staged)
