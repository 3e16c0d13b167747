"""Bytes of weights and cache against what the published models have."""

from __future__ import annotations

import numpy as np
import pytest

from mofang.catalog.knowledge import Catalog
from mofang.domain.hardware import Precision
from mofang.matching.serving.capacity import cache_tokens, static_memory
from mofang.matching.serving.settings import engine_settings
from mofang.matching.serving.sizes import kv_bytes_per_token, served_model

from .conftest import cut_of, load_with


@pytest.mark.parametrize(
    ("model", "precision", "wanted"),
    [
        # 80 layers x 2 x 8 key-value heads x 128 x 2 bytes
        ("llama-3-70b", Precision.BF16, 327_680),
        ("llama-3-70b", Precision.FP8, 163_840),
        ("llama-3-8b", Precision.BF16, 131_072),
        # 61 layers x (512 + 64) x 2 bytes: latent attention keeps one vector
        ("deepseek-v3", Precision.BF16, 70_272),
        ("llama-2-7b", Precision.FP16, 524_288),
    ],
)
def test_cache_of_a_token_is_exact(catalog: Catalog, model: str, precision: Precision, wanted: int) -> None:
    assert kv_bytes_per_token(catalog.model(model), precision) == wanted


@pytest.mark.parametrize("name", ["llama-3.1-70b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-120b", "llama-4-maverick"])
def test_parts_of_a_model_add_up(catalog: Catalog, name: str) -> None:
    model = catalog.model(name)
    parts = served_model(model)
    assert parts.attention + parts.dense_ffn + parts.routed + parts.tables == model.params
    assert min(parts.attention, parts.dense_ffn, parts.tables) > 0


def test_weights_of_a_dense_model_are_cut_over_tp_and_pp(llama, pool_of) -> None:
    load = load_with(8.0)
    one, four = (static_memory(llama, cut_of(tp=tp, weights=Precision.BF16), load)["weights"][0] for tp in (1, 4))
    assert one == pytest.approx(2 * llama.params, rel=1e-9)
    assert four == pytest.approx(one / 4, rel=1e-9)


def test_cache_of_a_known_deployment(llama, pool_of) -> None:
    """Llama-3.1-70B in fp8 on 4 x H100: what is left of 90 % of the memory, over the bytes of a token's quarter."""
    pool, settings, load, cut = pool_of("h100"), engine_settings("vllm"), load_with(np.inf), cut_of(tp=4)
    taken = sum(part[0] for part in static_memory(llama, cut, load).values())
    left = pool.accelerator.memory_bytes * 0.9 - taken
    assert cache_tokens(llama, pool, cut, load, settings)[0] == pytest.approx(left / (327_680 / 4))


def test_more_ranks_than_heads_copy_the_cache(catalog: Catalog, pool_of) -> None:
    model, pool, settings, load = (
        catalog.model("qwen3-30b-a3b"),
        pool_of("h200"),
        engine_settings("vllm"),
        load_with(1.0),
    )
    assert model.kv_heads == 4
    four, eight = (cache_tokens(model, pool, cut_of(tp=tp), load, settings)[0] for tp in (4, 8))
    assert eight < 1.3 * four  # only the weights' share shrinks


def test_copies_of_latent_attention_each_have_a_cache(catalog: Catalog, pool_of) -> None:
    model, pool, settings, load = (
        catalog.model("deepseek-v3"),
        pool_of("h200"),
        engine_settings("sglang"),
        load_with(1.0),
    )
    together = cache_tokens(model, pool, cut_of(tp=8), load, settings)[0]
    apart = cache_tokens(model, pool, cut_of(dp=8, ep=8), load, settings)[0]
    assert apart > 4 * together
