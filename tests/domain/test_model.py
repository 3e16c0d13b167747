"""Parameter counts of published models, from their published sizes."""

from __future__ import annotations

import pytest

from mofang.domain.model import Attention, MixtureOfExperts, ModelArchitecture, MultiHeadLatent
from mofang.errors import SpecError

LLAMA_3_1_8B = ModelArchitecture(
    name="llama-3.1-8b", layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14336, vocab=128256, head_dim=128,
    max_sequence=131072,
)  # fmt: skip
GPT_2 = ModelArchitecture(
    name="gpt2", layers=12, hidden=768, heads=12, kv_heads=12, ffn=3072, vocab=50257, head_dim=64, max_sequence=1024,
    gated_ffn=False, tied_embeddings=True, learned_positions=True, attention_bias=True, output_bias=True, ffn_bias=True,
    norm_bias=True,
)  # fmt: skip
MIXTRAL = ModelArchitecture(
    name="mixtral-8x7b", layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14336, vocab=32000, head_dim=128,
    max_sequence=32768, moe=MixtureOfExperts(num_experts=8, top_k=2, expert_ffn=14336),
)  # fmt: skip
DEEPSEEK_V3 = ModelArchitecture(
    name="deepseek-v3", layers=61, hidden=7168, heads=128, kv_heads=128, ffn=18432, vocab=129280, head_dim=128,
    max_sequence=163840, attention=Attention.LATENT,
    latent=MultiHeadLatent(
        kv_lora_rank=512, q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
    ),
    moe=MixtureOfExperts(
        num_experts=256, top_k=8, expert_ffn=2048, num_shared=1, shared_ffn=2048, dense_layers=3
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "params"),
    [(LLAMA_3_1_8B, 8_030_261_248), (GPT_2, 124_439_808), (MIXTRAL, 46_702_792_704)],
    ids=lambda value: getattr(value, "name", value),
)
def test_parameters_are_those_of_the_published_checkpoint(model: ModelArchitecture, params: int) -> None:
    assert model.params == params


def test_a_large_mixture_of_experts_has_its_published_sizes() -> None:
    assert DEEPSEEK_V3.params == pytest.approx(671e9, rel=0.001)  # arXiv:2412.19437, abstract
    assert DEEPSEEK_V3.active_params == pytest.approx(37e9, rel=0.02)


def test_experts_that_are_not_chosen_are_not_active() -> None:
    assert MIXTRAL.active_params == pytest.approx(12.9e9, rel=0.01)  # arXiv:2401.04088, section 1: 13B
    assert LLAMA_3_1_8B.active_params == LLAMA_3_1_8B.params


def test_work_is_six_flops_a_weight_and_attention() -> None:
    work = LLAMA_3_1_8B.train_flops_per_token(8192)
    weights = 6 * (LLAMA_3_1_8B.params - 128256 * 4096)
    assert work == pytest.approx(weights + 6 * 32 * 4096 * 8192)


SIZES = {"name": "m", "layers": 2, "hidden": 8, "heads": 4, "kv_heads": 2, "ffn": 8, "vocab": 9, "head_dim": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, not 0"),
        ({"kv_heads": 3}, "4 = 1 x 3 \\+ 1"),
        ({"attention": Attention.LATENT}, "latent attention and its sizes go together"),
        ({"ffn": 0}, "ffn must be at least 1, not 0"),
    ],
)
def test_impossible_sizes_are_refused_with_their_arithmetic(change: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ModelArchitecture(**(SIZES | {"max_sequence": 16} | change))


def test_no_more_experts_are_chosen_than_there_are() -> None:
    with pytest.raises(SpecError, match=r"3 is not in 1\.\.2"):
        MixtureOfExperts(num_experts=2, top_k=3, expert_ffn=4)
