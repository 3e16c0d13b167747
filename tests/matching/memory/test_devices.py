"""State, pipeline stages and sharding on accelerators."""

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mofang.catalog.frameworks import frameworks
from mofang.domain.hardware import Pool, Precision
from mofang.domain.model import MixtureOfExperts, ModelArchitecture
from mofang.domain.strategy import Method, Offload, Recompute, Sharding
from mofang.matching.candidates import METHODS, OFFLOADS, PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.memory import PARTS, allocated_bytes, host_bytes, memory_parts
from mofang.matching.work import Work

PROPERTY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CODES = {
    "precision": PRECISIONS,
    "recompute": RECOMPUTES,
    "sharding": SHARDINGS,
    "method": METHODS,
    "offload": OFFLOADS,
}
DEFAULTS = {
    "precision": Precision.BF16,
    "recompute": Recompute.NONE,
    "sharding": Sharding.NONE,
    "method": Method.FULL,
    "offload": Offload.NONE,
    "compile": 0,
}


def rows(**columns: object) -> Candidates:
    """Return candidates of columns that are values or lists of them."""
    values = {
        name: [
            CODES[name].index(one) if name in CODES else one for one in (given if isinstance(given, list) else [given])
        ]
        for name, given in (DEFAULTS | columns).items()
    }
    names = [field.name for field in fields(Candidates)]
    size = max(len(one) for one in values.values())
    filled = {
        name: np.array(values.get(name, [1]) * (size if len(values.get(name, [1])) == 1 else 1)) for name in names
    }
    return Candidates(**filled)


def work(model: ModelArchitecture, **keys: object) -> Work:
    return Work(model=model, **({"sequence": 4096, "global_batch": 64} | keys))


def total(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    return sum(parts.values(), np.zeros(1))


def state(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    return parts["weights"] + parts["gradients"] + parts["optimizer"]


def test_megatron_holds_18_bytes_a_parameter_and_its_distributed_optimizer_6_and_12_over_d(
    llama_7b: ModelArchitecture, h100: Pool
):
    """Megatron-LM docs, "Distributed Optimizer"."""
    found = memory_parts(
        work(llama_7b),
        h100,
        rows(dp=[1, 8, 8], sharding=[Sharding.NONE, Sharding.DDP, Sharding.ZERO1]),
        frameworks()["megatron"],
    )
    assert state(found) / llama_7b.params == pytest.approx([18.0, 18.0, 6 + 12 / 8])


def test_zero_shards_what_its_stages_say(llama_7b: ModelArchitecture, h100: Pool):
    """ZeRO (arXiv:1910.02054), figure 1: K = 12 and fp32 gradients for the update; stages cut them one by one."""
    stages = [Sharding.DDP, Sharding.ZERO1, Sharding.ZERO2, Sharding.FSDP]
    found = memory_parts(work(llama_7b), h100, rows(dp=64, sharding=stages), frameworks()["deepspeed"])
    expected = [20, 4 + 16 / 64, 2 + 18 / 64, 20 / 64]
    assert state(found) / llama_7b.params == pytest.approx(expected)


def test_fully_sharded_single_precision_state_is_16_bytes_over_all_ranks(llama_7b: ModelArchitecture, h100: Pool):
    found = memory_parts(
        work(llama_7b), h100, rows(dp=[8, 4], cp=[1, 2], sharding=Sharding.FSDP), frameworks()["torchtitan"]
    )
    assert state(found) / llama_7b.params == pytest.approx([2.0, 2.0])


def test_quantised_weights_take_half_a_byte_and_adapters_alone_are_trained(llama_7b: ModelArchitecture, h100: Pool):
    """QLoRA (arXiv:2305.14314), section 3: 4 bits and 0.127 for the constants."""
    found = memory_parts(work(llama_7b), h100, rows(method=[Method.FULL, Method.LORA, Method.QLORA]))
    blocks = llama_7b.params - llama_7b.embedding_params
    adapters = 16 * llama_7b.layers * (4 * 2 * 4096 + 3 * (4096 + 11008))
    assert found["weights"][2] == pytest.approx(0.516 * blocks + 2 * llama_7b.embedding_params + 4 * adapters, rel=1e-3)
    assert found["optimizer"][1:] == pytest.approx([8 * adapters] * 2)
    assert total(found)[2] < total(found)[1] < total(found)[0]


def test_the_first_stage_holds_as_many_micro_batches_as_there_are_stages(llama_7b: ModelArchitecture, h100: Pool):
    """Korthikanti et al. (arXiv:2205.05198), section 4.2.3: L layers of activations, whatever p; interleaving adds."""
    fast = frameworks()["megatron"]
    cuts = rows(pp=[2, 4, 4, 4], vpp=[1, 1, 2, 1], accumulation=[64, 64, 64, 2], tp=8)
    alone = memory_parts(work(llama_7b), h100, rows(tp=8, accumulation=64), fast)
    found = memory_parts(work(llama_7b, global_batch=64), h100, cuts, fast)
    passing = alone["activations"][0] - (found["activations"][0] - found["activations"][3]) * 2
    kept = found["activations"] - passing
    assert kept[1] == pytest.approx(kept[0])
    assert kept[2] / kept[1] == pytest.approx(1 + 3 / (4 * 2))
    assert kept[3] / kept[1] == pytest.approx(0.5)


def test_the_last_stage_counts_where_its_logits_are_large(llama_7b: ModelArchitecture, h100: Pool):
    wide = replace(llama_7b, vocab=1_000_000)
    found = memory_parts(work(wide), h100, rows(pp=2, accumulation=8), frameworks()["megatron"])
    assert found["logits"][0] > 0


def test_experts_are_cut_by_their_own_ranks(llama_7b: ModelArchitecture, h100: Pool):
    moe = replace(llama_7b, moe=MixtureOfExperts(num_experts=8, top_k=2, expert_ffn=11008))
    found = memory_parts(work(moe), h100, rows(dp=8, ep=[1, 8], sharding=Sharding.ZERO1), frameworks()["megatron"])
    experts = moe.layers * 8 * moe.ffn_params(11008)
    assert found["gradients"][0] - found["gradients"][1] == pytest.approx(4 * experts * 7 / 8)


def test_offloading_moves_state_to_the_host(llama_7b: ModelArchitecture, h100: Pool):
    cut = rows(dp=8, devices=8, sharding=Sharding.FSDP, offload=[Offload.NONE, Offload.OPTIMIZER, Offload.ALL])
    task, fast = work(llama_7b), frameworks()["deepspeed"]
    found = memory_parts(task, h100, cut, fast)
    assert found["optimizer"][0] > 0 == found["optimizer"][1] == found["optimizer"][2]
    assert found["weights"][2] == 0 < found["weights"][1]
    host = host_bytes(task, h100, cut, total(found))
    assert host[1] - host[0] == pytest.approx(16 * llama_7b.params)
    assert host[2] > host[1]


LAYOUT = st.fixed_dictionaries(
    {
        "dp": st.integers(1, 64),
        "tp": st.sampled_from([1, 2, 4, 8]),
        "pp": st.integers(1, 12),
        "cp": st.integers(1, 4),
        "ep": st.integers(1, 8),
        "vpp": st.integers(1, 3),
        "micro_batch": st.integers(1, 8),
        "accumulation": st.integers(1, 16),
        "compile": st.integers(0, 1),
        **{name: st.sampled_from(values) for name, values in CODES.items()},
    }
)


@PROPERTY
@given(layouts=st.lists(LAYOUT, min_size=2, max_size=6), name=st.sampled_from([None, *frameworks()]))
def test_rows_are_independent_and_every_part_is_a_size(
    llama_7b: ModelArchitecture, h100: Pool, layouts: list[dict[str, object]], name: str | None
):
    fast = frameworks()[name] if name else None
    together = memory_parts(
        work(llama_7b), h100, rows(**{key: [one[key] for one in layouts] for key in layouts[0]}), fast
    )
    assert tuple(together) == PARTS
    for index, layout in enumerate(layouts):
        alone = memory_parts(work(llama_7b), h100, rows(**layout), fast)
        for part in PARTS:
            assert alone[part][0] == together[part][index] >= 0
            assert np.isfinite(alone[part][0])
    assert (allocated_bytes(together) <= total(together)).all()


@PROPERTY
@given(layout=LAYOUT, name=st.sampled_from(["megatron", "torchtitan", "deepspeed", "gpt"]))
def test_more_ranks_or_recomputation_never_need_more_and_larger_micro_batches_never_less(
    llama_7b: ModelArchitecture, h100: Pool, layout: dict[str, object], name: str
):
    def size(**changed: object) -> float:
        return float(total(memory_parts(work(llama_7b), h100, rows(**(layout | changed)), frameworks()[name]))[0])

    here, loose = size(), 1.0 + 1e-9
    assert size(micro_batch=layout["micro_batch"] + 1) * loose >= here
    assert size(recompute=Recompute.FULL) <= size(recompute=Recompute.NONE) * loose
    if layout["dp"] > 1:
        assert size(dp=layout["dp"] * 2) <= here * loose


def test_nothing_to_look_at_is_no_rows(llama_7b: ModelArchitecture, h100: Pool):
    none = rows().where(np.array([False]))
    assert all(len(size) == 0 for size in memory_parts(work(llama_7b), h100, none).values())
