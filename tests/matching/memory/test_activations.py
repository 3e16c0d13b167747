"""Activations against the equations and published percentages of Korthikanti et al. (arXiv:2205.05198)."""

from dataclasses import replace

import numpy as np
import pytest

from mofang.domain.model import Attention, MixtureOfExperts, ModelArchitecture, MultiHeadLatent
from mofang.matching.memory.blocks import BlockUse, saved_by_block


def gpt(hidden: int, heads: int, layers: int = 2) -> ModelArchitecture:
    return ModelArchitecture(
        name="gpt",
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=4 * hidden,
        vocab=51200,
        max_sequence=2048,
        gated_ffn=False,
    )


def use(*, tp: int = 1, sequence_parallel: bool = False, sequence: int = 2048, **keys: object) -> BlockUse:
    one = np.ones(1)
    values = {"flash": False, "dropout": True} | keys
    return BlockUse(
        element=2 * one,
        kept=2 * one,
        tp=tp * one,
        spread=(tp if sequence_parallel else 1) * one,
        keys=sequence * one,
        fused_gate=np.array([False]),
        **values,
    )


# Table 3 of the paper: hidden size and attention heads of the 22B, 175B, 530B and 1T models; t = 8, s = 2048.
MODELS = [(6144, 64), (12288, 96), (20480, 128), (25600, 160)]


@pytest.mark.parametrize(("hidden", "heads"), MODELS)
@pytest.mark.parametrize("tp", [1, 2, 8])
def test_table_2(hidden: int, heads: int, tp: int):
    model, share = gpt(hidden, heads), 5 * heads * 2048 / hidden
    cut, spread = saved_by_block(model, use(tp=tp)), saved_by_block(model, use(tp=tp, sequence_parallel=True))
    assert cut.whole[0] == pytest.approx(hidden * (10 + 24 / tp + share / tp))
    assert cut.attention[0] == pytest.approx(hidden * (10 + 24 / tp))
    assert spread.whole[0] == pytest.approx(hidden / tp * (34 + share))
    assert spread.attention[0] == pytest.approx(hidden * 34 / tp)
    assert cut.input[0] == pytest.approx(2 * hidden)


@pytest.mark.parametrize(("hidden", "heads", "saved"), [(12288, 96, 0.70), (20480, 128, 0.65)])
def test_selective_recomputation_saves_what_section_4_states(hidden: int, heads: int, saved: float):
    found = saved_by_block(gpt(hidden, heads), use())
    assert 1 - found.attention[0] / found.whole[0] == pytest.approx(saved, abs=0.01)


@pytest.mark.parametrize(("hidden", "heads"), MODELS)
def test_percentages_of_figure_7(hidden: int, heads: int):
    """Each technique nearly halves the memory, both bring it to about a fifth, full recomputation to a tenth."""
    model = gpt(hidden, heads)
    cut, spread = saved_by_block(model, use(tp=8)), saved_by_block(model, use(tp=8, sequence_parallel=True))
    baseline = cut.whole[0]
    assert 0.45 < spread.whole[0] / baseline < 0.68
    assert 0.45 < cut.attention[0] / baseline < 0.66
    assert 0.15 < spread.attention[0] / baseline < 0.22
    assert 0.07 < cut.input[0] / baseline < 0.11


def test_fused_attention_keeps_no_probabilities():
    model = gpt(4096, 32)
    fused = saved_by_block(model, use(flash=True, dropout=False))
    assert fused.whole[0] == pytest.approx(32 * 4096 + 4 * 32)


def test_grouped_queries_keep_fewer_keys_until_ranks_outnumber_them():
    model = replace(gpt(4096, 32), kv_heads=8)
    whole, grouped = (saved_by_block(one, use()).whole[0] for one in (gpt(4096, 32), model))
    assert whole - grouped == pytest.approx(2 * 2 * (4096 - 8 * 128))
    few, many = (saved_by_block(model, use(tp=tp, sequence_parallel=True, flash=True)) for tp in (8, 16))
    assert many.whole[0] > few.whole[0] / 2  # keys are copied beyond eight ranks


def test_a_gated_block_keeps_less_where_the_gate_is_fused():
    model = replace(gpt(4096, 32), gated_ffn=True, ffn=11008)
    plain = saved_by_block(model, use())
    fused = saved_by_block(model, replace(use(), fused_gate=np.array([True])))
    assert plain.whole[0] - fused.whole[0] == pytest.approx(2 * 11008)


def test_experts_keep_their_tokens_times_the_chosen_experts():
    moe = MixtureOfExperts(num_experts=16, top_k=2, expert_ffn=1024)
    sparse = replace(gpt(2048, 16), moe=moe, ffn=8192)
    more = replace(sparse, moe=replace(moe, top_k=4))
    two, four = (saved_by_block(one, use()).whole[0] for one in (sparse, more))
    assert four - two == pytest.approx(2 * (2048 * 4 + 1024 * 4))


def test_latent_attention_keeps_full_heads_and_compressed_vectors():
    sizes = MultiHeadLatent(
        kv_lora_rank=512, q_lora_rank=None, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
    )
    latent = replace(gpt(2048, 16), attention=Attention.LATENT, latent=sizes)
    plain = saved_by_block(gpt(2048, 16), use(flash=True)).whole[0]
    found = saved_by_block(latent, use(flash=True)).whole[0]
    assert found - plain == pytest.approx(2 * (16 * (2 * 192 + 2 * 128) + 2 * 512 + 64) - 2 * 4 * 2048)


@pytest.mark.parametrize("what", ["attention", "operators", "projections", "blocks", "input"])
def test_recomputing_never_keeps_more(what: str):
    for tp in (1, 4):
        found = saved_by_block(gpt(4096, 32), use(tp=tp, sequence_parallel=True))
        assert getattr(found, what)[0] <= found.whole[0]
