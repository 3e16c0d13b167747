"""Where a device's memory goes, and how many tokens of cache are left for requests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.domain.model import ModelArchitecture
from mofang.matching.serving.deployments import PRECISIONS, Deployments, Load
from mofang.matching.serving.settings import EngineSettings, serving_data
from mofang.matching.serving.sizes import kv_bytes_per_token, linear_precision, served_model

__all__ = ["cache_tokens", "most_requests", "static_memory", "token_bytes"]

Floats = NDArray[np.float64]

_BYTES = np.array([precision.bytes for precision in PRECISIONS])
_TABLE_BYTES = 2.0


def static_memory(model: ModelArchitecture, cut: Deployments, load: Load) -> Mapping[str, Floats]:
    """Return the bytes of the fullest device by part, the cache left out.

    ``weights`` follow the cut: attention and dense blocks over tp x pp, experts over tp x dp x pp, tables over tp.
    ``activations`` hold one chunk's widest tensors and one row of logits a request, ``runtime`` what the engine's
    process takes.
    """
    served = served_model(model)
    known = serving_data()["memory"]
    linear = np.array([linear_precision(model, precision).bytes for precision in PRECISIONS])[cut.weights]
    stage = cut.tp * cut.pp
    tables = served.tables * _TABLE_BYTES / cut.tp
    weights = served.linear * linear / stage + served.routed * _scaled(cut.weights) / (stage * cut.dp)
    weights = weights + tables * np.where(cut.pp > 1, 0.5, 1.0)
    widest = model.hidden * known["hidden_copies"] + 3.0 * _width(model) / cut.tp
    rows = np.minimum(load.max_requests, load.concurrency)
    logits = np.minimum(rows, load.chunk) * model.vocab * known["logit_bytes"] / cut.tp
    return {
        "weights": weights,
        "activations": load.chunk * widest * _TABLE_BYTES + logits,
        "runtime": np.full(len(cut), float(known["runtime"])),
    }


def _scaled(codes: NDArray[np.int64]) -> Floats:
    """Return the bytes of one weight; 4-bit formats carry a scale for each block of 16 (OCP microscaling, NVFP4)."""
    sizes: Floats = _BYTES[codes]
    return np.where(sizes < 1.0, sizes + 1.0 / 16.0, sizes)


def _width(model: ModelArchitecture) -> float:
    moe = model.moe
    return float(max(model.ffn, moe.expert_ffn * moe.top_k + moe.shared_ffn if moe is not None else 0))


def cache_tokens(
    model: ModelArchitecture, pool: Pool, cut: Deployments, load: Load, settings: EngineSettings
) -> Floats:
    """Return how many tokens the caches of one replica hold together; negative where the weights do not fit.

    Key-value heads are cut over tp as far as there are heads, then copied; a latent cache is copied on every rank; the
    copies of attention (dp) each have a cache of their own.
    """
    taken = np.sum(list(static_memory(model, cut, load).values()), axis=0)
    left = pool.accelerator.memory_bytes * settings.memory_fraction - taken
    token = np.array([kv_bytes_per_token(model, precision) for precision in PRECISIONS])[cut.kv]
    ways = np.ones_like(left) if model.latent is not None else np.minimum(cut.tp, model.kv_heads).astype(np.float64)
    tokens: Floats = left / (token / (ways * cut.pp)) * cut.dp
    return tokens


def most_requests(load: Load, tokens: Floats, cut: Deployments, settings: EngineSettings) -> Floats:
    """Return how many requests one replica serves at once: what its cache and its scheduler allow.

    An engine that reserves the whole answer counts it in full; others admit until the cache is full, when answers are
    on average half written.
    """
    answer = load.output if settings.reserves_output else load.output / 2.0
    fit = np.maximum(tokens, 0.0) / (load.input + answer)
    most: Floats = np.minimum(np.minimum(fit, load.max_requests * cut.dp), load.concurrency)
    return most


def token_bytes(model: ModelArchitecture, cut: Deployments, row: int) -> float:
    """Return the bytes of cache that one token of a request keeps on each device of one deployment."""
    ways = 1 if model.latent is not None else min(int(cut.tp[row]), model.kv_heads)
    return kv_bytes_per_token(model, PRECISIONS[cut.kv[row]]) / (ways * float(cut.pp[row]))
