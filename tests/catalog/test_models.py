"""Computed parameter counts against the published ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.catalog.knowledge import Catalog
from mofang.domain.model import MixtureOfExperts, ModelArchitecture, MultiHeadLatent
from mofang.errors import SpecError

CATALOG = Catalog.load()

# As Hugging Face counts the tensors of the published checkpoints.
EXACT = {
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_419_200,
    "gemma-7b": 8_537_680_896,
    "gemma-2-9b": 9_241_705_984,
    "gemma-3-1b": 999_885_952,
    "phi-2": 2_779_683_840,
    "phi-3-mini": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "falcon-7b": 6_921_720_704,
    "opt-125m": 125_239_296,
    "bloom-176b": 176_247_271_424,
    "pythia-12b": 11_846_072_320,
    "gpt-neox-20b": 20_554_567_680,
    "gpt-j-6b": 6_050_882_784,
    "internlm2-7b": 7_737_708_544,
    "olmo-2-7b": 7_298_617_344,
    "command-r-plus-104b": 103_810_674_688,
    "gpt-oss-120b": 116_829_156_672,
}


def test_there_are_enough_models_and_each_has_a_source():
    assert len(CATALOG.models) >= 45
    assert all(model.architecture.source for model in CATALOG.models)
    assert all(model.published_params for model in CATALOG.models)


@pytest.mark.parametrize("model", CATALOG.models, ids=lambda model: model.name)
def test_computed_count_is_within_one_percent_of_the_published_one(model):
    assert model.architecture.params == pytest.approx(model.published_params, rel=0.01)


@pytest.mark.parametrize(("name", "params"), EXACT.items())
def test_computed_count_is_exact_where_the_tensors_were_counted(name, params):
    assert CATALOG.model(name).params == params


@pytest.mark.parametrize(
    "model", [model for model in CATALOG.models if model.published_active_params], ids=lambda model: model.name
)
def test_published_active_count_lies_between_the_two_ways_of_counting(model):
    sizes = model.architecture
    assert 0.975 * sizes.matmul_params <= model.published_active_params <= 1.025 * sizes.active_params


@pytest.mark.parametrize(
    ("name", "billions"),
    [("mixtral-8x7b", 12.88), ("mixtral-8x22b", 39.15), ("deepseek-v3", 37.55), ("qwen3-30b-a3b", 3.35)],
)
def test_active_counts(name, billions):
    assert CATALOG.model(name).active_params / 1e9 == pytest.approx(billions, abs=0.01)


def test_dense_models_are_wholly_active():
    for model in CATALOG.models:
        sizes = model.architecture
        assert (sizes.active_params == sizes.params) == (sizes.moe is None)


@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 200),
    dense=st.integers(0, 220),
    every=st.integers(1, 5),
    experts=st.integers(1, 64),
    data=st.data(),
)
def test_the_total_is_the_sum_of_the_layers(layers, dense, every, experts, data):
    moe = MixtureOfExperts(
        num_experts=experts,
        top_k=data.draw(st.integers(1, experts)),
        expert_ffn=24,
        dense_layers=dense,
        every=every,
        router_bias=data.draw(st.booleans()),
    )
    model = ModelArchitecture(
        name="drawn",
        layers=layers,
        hidden=16,
        heads=4,
        kv_heads=2,
        ffn=32,
        vocab=100,
        head_dim=4,
        max_sequence=64,
        moe=moe,
    )
    assert model.expert_layers == sum(model.has_experts(index) for index in range(layers))
    summed = sum(model.layer_params(index) for index in range(layers))
    assert model.params == summed + model.embedding_params + model.norm_params
    assert model.matmul_params <= model.active_params <= model.params


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"top_k": 9}, "9 is not in 1..8"),
        ({"top_k": 0}, "0 is not in 1..8"),
        ({"every": 0}, "every must be at least 1, not 0"),
        ({"expert_ffn": 0}, "expert_ffn must be at least 1"),
        ({"dense_layers": -1}, "dense_layers must be at least 0"),
    ],
)
def test_impossible_experts_are_refused(change, says):
    with pytest.raises(SpecError, match=says):
        MixtureOfExperts(**({"num_experts": 8, "top_k": 2, "expert_ffn": 16} | change))


def test_impossible_latent_sizes_are_refused():
    with pytest.raises(SpecError, match="q_lora_rank must be at least 1"):
        MultiHeadLatent(kv_lora_rank=8, q_lora_rank=0, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8)


def test_a_model_without_a_feed_forward_block_is_refused():
    sizes = {"layers": 2, "hidden": 8, "heads": 2, "kv_heads": 2, "vocab": 9, "head_dim": 4, "max_sequence": 8}
    with pytest.raises(SpecError, match="ffn must be at least 1, not 0"):
        ModelArchitecture(name="empty", ffn=0, **sizes)
