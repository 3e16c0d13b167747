"""Seconds of one iteration of a serving engine: a forward pass over tokens being decoded and prompts being read.

A pass reads each weight once however many tokens it holds, each sequence's attention reads that sequence's cache, and
tensor parallelism adds two all-reduces a layer (Megatron-LM, arXiv:1909.08053). The operators' seconds come from the
chip's curves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool, Precision
from mofang.domain.model import ModelArchitecture
from mofang.matching.curves import curves_of
from mofang.matching.serving.deployments import PRECISIONS, Deployments
from mofang.matching.serving.settings import EngineSettings
from mofang.matching.serving.sizes import linear_precision

__all__ = ["Iteration", "Passes"]

Floats = NDArray[np.float64]

_ACTIVATION = 2.0  # bytes of an element between operators
_PACKED = 0.5 + 1.0 / 16.0  # bytes of a 4-bit weight with its part of a block's scale
_STREAMING = 0.8  # part of the data sheet's bandwidth at which kernels read weights
_LATENT_DECODE_FLOPS = (
    1.89  # (576 + 512) / 576: the absorbed form's scores read all of the cache, its values only kv_lora_rank
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """What one iteration of a replica holds (arrays of one length).

    ``decoding`` sequences, each with ``context`` tokens of cache; ``prompt`` tokens of ``prompts`` prompts, whose
    attention looks back over ``reach`` tokens on average.
    """

    decoding: Floats
    context: Floats
    prompt: Floats
    prompts: Floats
    reach: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """One model on one pool, cut as ``deployments`` say; one row a deployment."""

    model: ModelArchitecture
    pool: Pool
    deployments: Deployments
    settings: EngineSettings

    def seconds(self, work: Iteration) -> Mapping[str, Floats]:
        """Return the seconds of one iteration by part: for one micro-batch through all stages."""
        cut = self.deployments
        each = 1.0 / (cut.dp * cut.pp)
        tokens = (work.decoding + work.prompt) * each
        rows = (work.decoding + work.prompts) * each
        share = _by_precision(cut.weights)
        parts = {
            "linear": share(lambda code, here: self._linear(code, tokens[here], rows[here], here)),
            "attention": share(lambda code, here: self._attention(code, work, each, here)),
            "memory": self._elementwise(tokens),
            "communication": self._communication(tokens),
            "overhead": self.settings.iteration_s + self.settings.sequence_s * work.decoding * each + 0.0 * tokens,
        }
        if self.model.moe is not None:
            gathered = tokens * cut.dp
            parts["experts"] = share(lambda code, here: self._experts(code, gathered[here], here))
        return parts

    def total(self, work: Iteration) -> Floats:
        """Return the seconds of one iteration."""
        parts = self.seconds(work)
        seconds: Floats = np.sum(list(parts.values()), axis=0)
        return seconds

    def _product(self, precision: Precision, m: Floats, n: Floats | float, k: Floats | float) -> Floats:
        return curves_of(self.pool.accelerator).matmul(precision.value, m, n, k)

    def _linear(self, weights: Precision, tokens: Floats, rows: Floats, here: NDArray[np.intp]) -> Floats:
        model, tp = self.model, self.deployments.tp[here].astype(np.float64)
        inner = linear_precision(model, weights)
        seconds = model.layers * self._projections(inner, tokens, tp)
        seconds += (model.layers - model.expert_layers) * self._ffn(inner, tokens, model.ffn, tp)
        moe = model.moe
        if moe is not None:
            seconds += model.expert_layers * self._product(Precision.BF16, tokens, moe.num_experts, model.hidden)
            if moe.num_shared:
                seconds += model.expert_layers * self._ffn(inner, tokens, moe.shared_ffn, tp)
        return seconds + self._product(Precision.BF16, rows, model.vocab / tp, model.hidden)

    def _projections(self, precision: Precision, tokens: Floats, tp: Floats) -> Floats:
        model = self.model
        if model.latent is not None:
            return self._latent_projections(precision, tokens, tp)
        query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
        inputs = (query + 2.0 * np.maximum(key, tp * model.head_dim)) / tp
        return self._product(precision, tokens, inputs, model.hidden) + self._product(
            precision, tokens, model.hidden, query / tp
        )

    def _latent_projections(self, precision: Precision, tokens: Floats, tp: Floats) -> Floats:
        model, latent = self.model, self.model.latent
        if latent is None:
            raise ValueError("the model has no latent attention")
        head, heads = latent.qk_nope_head_dim + latent.qk_rope_head_dim, model.heads / tp
        down = latent.kv_lora_rank + latent.qk_rope_head_dim
        if latent.q_lora_rank is None:
            seconds = self._product(precision, tokens, heads * head + down, model.hidden)
        else:
            seconds = self._product(precision, tokens, float(latent.q_lora_rank + down), model.hidden)
            seconds += self._product(precision, tokens, heads * head, latent.q_lora_rank)
        # The absorbed form multiplies queries and outputs with the two halves of the up-projection.
        up = heads * (latent.qk_nope_head_dim + latent.v_head_dim)
        seconds += self._product(precision, tokens, up, latent.kv_lora_rank)
        return seconds + self._product(precision, tokens, model.hidden, heads * latent.v_head_dim)

    def _ffn(self, precision: Precision, tokens: Floats, size: int, tp: Floats) -> Floats:
        if not size:
            return np.zeros_like(tokens)
        up = (2 if self.model.gated_ffn else 1) * size / tp
        return self._product(precision, tokens, up, self.model.hidden) + self._product(
            precision, tokens, self.model.hidden, size / tp
        )

    def _experts(self, weights: Precision, tokens: Floats, here: NDArray[np.intp]) -> Floats:
        model, moe, cut = self.model, self.model.moe, self.deployments
        if moe is None:
            raise ValueError("the model has no experts")
        ep = np.minimum(cut.ep[here], moe.num_experts).astype(np.float64)
        width = moe.expert_ffn / np.maximum(1.0, cut.tp[here] * cut.dp[here] / ep)
        chip = self.pool.accelerator
        unpacked = weights is Precision.FP4 and Precision.FP4 not in chip.peak_flops
        seconds = curves_of(chip).experts(
            "bf16" if unpacked else weights.value, tokens, float(model.hidden), width, moe.num_experts, moe.top_k, ep
        )
        if unpacked:  # 4-bit weights unpacked on the way: the 16-bit product, less the bytes that are not read
            touched = moe.num_experts / ep * (1.0 - (1.0 - moe.top_k / moe.num_experts) ** tokens)
            saved = touched * model.ffn_params(1) * width * (Precision.BF16.bytes - _PACKED) / chip.memory_bandwidth
            seconds = np.maximum(seconds - saved / _STREAMING, seconds * _PACKED / Precision.BF16.bytes)
        return model.expert_layers * seconds

    def _attention(self, weights: Precision, work: Iteration, each: Floats, here: NDArray[np.intp]) -> Floats:
        kv = self.deployments.kv[here]
        seconds = np.zeros(len(here))
        for code in np.unique(kv):
            rows = np.flatnonzero(kv == code)
            seconds[rows] = self._attention_rows(PRECISIONS[code], work, each, here[rows])
        return self.model.layers * seconds

    def _attention_rows(self, kv: Precision, work: Iteration, each: Floats, here: NDArray[np.intp]) -> Floats:
        model, curves = self.model, curves_of(self.pool.accelerator)
        tp = self.deployments.tp[here].astype(np.float64)
        heads, kv_heads, width, flops = self._heads(tp)
        decoding, context = work.decoding[here] * each[here], work.context[here]
        one = np.ones_like(tp)
        seconds = curves.attention(
            heads * flops, kv_heads, width, np.maximum(decoding, 1e-3), one, context, "bf16", kv.value, "decode"
        )
        seconds = np.where(decoding > 0, seconds, 0.0)
        prompts = work.prompts[here] * each[here]
        length = work.prompt[here] / np.maximum(work.prompts[here], 1e-9)
        reading = curves.attention(
            heads,
            np.maximum(model.kv_heads / tp, 1.0),
            float(model.head_dim),
            np.maximum(prompts, 1e-3),
            np.maximum(length, 1.0),
            np.maximum(work.reach[here], length),
            "bf16",
            kv.value,
            "prefill",
        )
        return seconds + np.where(prompts > 0, reading, 0.0)

    def _heads(self, tp: Floats) -> tuple[Floats, Floats, float, float]:
        """Return heads, key-value heads and their width on a rank as decode kernels see them, and their extra FLOP."""
        model = self.model
        if model.latent is None:
            return model.heads / tp, np.maximum(model.kv_heads / tp, 1.0), float(model.head_dim), 1.0
        cached = model.latent.kv_lora_rank + model.latent.qk_rope_head_dim
        # One vector stands for key and value together, and every rank keeps all of it.
        return model.heads / tp, np.ones_like(tp), cached / 2.0, _LATENT_DECODE_FLOPS

    def _elementwise(self, tokens: Floats) -> Floats:
        model, curves = self.model, curves_of(self.pool.accelerator)
        tp = self.deployments.tp.astype(np.float64)
        hidden = tokens * model.hidden * _ACTIVATION
        wide = tokens * _ACTIVATION * (model.ffn or (model.moe.expert_ffn * model.moe.top_k if model.moe else 0)) / tp
        rotated = tokens * _ACTIVATION * (model.heads + model.kv_heads) * model.head_dim / tp
        layer = (
            2.0 * curves.stream(4.0 * hidden, "norm")
            + curves.stream(3.0 * wide, "activation")
            + curves.stream(2.0 * rotated, "rope")
        )
        return model.layers * layer

    def _communication(self, tokens: Floats) -> Floats:
        model, cut = self.model, self.deployments
        size = tokens * model.hidden * _ACTIVATION
        tp, dp = cut.tp.astype(np.float64), cut.dp.astype(np.float64)
        seconds = 2.0 * model.layers * self._collective("all-reduce-custom", size, tp)
        if model.moe is not None:
            ranks = tp * dp
            sent = size / tp * np.minimum(model.moe.top_k, ranks)
            scattered = 2.0 * self._collective("all-to-all", sent, ranks) - self._collective(
                "all-reduce-custom", size, tp
            )
            seconds += np.where(dp > 1, model.expert_layers * scattered, 0.0)
        hops = cut.pp - 1.0
        link = self.pool.intra
        return seconds + hops * (link.latency_s + size / tp / max(link.bandwidth, 1.0))

    def _collective(self, operation: str, size: Floats, ranks: Floats) -> Floats:
        """Return a collective's seconds; beyond a node, what crosses the network comes on top."""
        per_node = float(self.pool.devices_per_node)
        inside = np.minimum(ranks, per_node)
        seconds = curves_of(self.pool.accelerator).collective(operation, size, inside)
        nodes = np.ceil(ranks / per_node)
        far = self.pool.inter
        crossing = far.latency_s * np.log2(np.maximum(nodes, 1.0)) * 2.0 + size * (1.0 - 1.0 / nodes) / max(
            far.bandwidth, 1.0
        )
        return np.where(ranks > 1, seconds, 0.0) + np.where(nodes > 1, crossing, 0.0)


def _by_precision(codes: NDArray[np.int64]) -> Callable[[Callable[[Precision, NDArray[np.intp]], Floats]], Floats]:
    """Return a function that evaluates each precision on its own rows and puts the results together."""
    groups = [(PRECISIONS[code], np.flatnonzero(codes == code)) for code in np.unique(codes)]

    def gathered(part: Callable[[Precision, NDArray[np.intp]], Floats]) -> Floats:
        result = np.zeros(len(codes))
        for precision, here in groups:
            result[here] = part(precision, here)
        return result

    return gathered
