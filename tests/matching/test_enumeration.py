"""Layouts and ways: all that are whole, none that are not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mofang.catalog.frameworks import frameworks
from mofang.domain.hardware import Pool, Precision
from mofang.domain.model import MixtureOfExperts, ModelArchitecture
from mofang.domain.scenario import Scenario, StrategyChoice
from mofang.domain.strategy import Method, Offload, Sharding
from mofang.matching.candidates import OFFLOADS, PRECISIONS, SHARDINGS, Candidates
from mofang.matching.cuts import cuts_of, divisors, stage_chunks, tensor_degrees
from mofang.matching.enumeration import Space, precisions, space_of
from mofang.matching.layouts import Places, device_counts, layouts
from mofang.matching.work import work_of
from mofang.units import Range

Build = Callable[..., Scenario]
PROPERTY = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EVERY_CUT = frozenset({"tp", "pp", "vpp", "cp", "ep"})


def space(scenario: Scenario, pool: Pool, name: str = "megatron") -> Space:
    work, framework = work_of(scenario.task), frameworks()[name]
    places = Places.of(pool, pool.counts, scenario.resources.nodes)
    return space_of(work, pool, framework, Method.FULL, layouts(work, framework, places))


def everything(found: Space) -> Candidates:
    return found.pick(np.arange(len(found)))


@PROPERTY
@given(batch=st.integers(1, 96), devices=st.integers(1, 64), name=st.sampled_from(["megatron", "torchtitan", "gpt"]))
def test_every_candidate_is_whole(
    pretrain: Build, llama_7b: ModelArchitecture, h100: Pool, batch: int, devices: int, name: str
):
    pool = replace(h100, counts=Range(1, devices))
    c = everything(space(pretrain(llama_7b, global_batch=batch, framework=None), pool, name))
    assert (c.dp * c.tp * c.pp * c.cp == c.devices).all()
    assert (c.dp * c.micro_batch * c.accumulation == batch).all()
    assert (c.devices <= devices).all()
    assert ((c.nodes == 1) | (c.devices == 8 * c.nodes)).all()
    assert ((c.devices // c.nodes) % c.tp == 0).all()
    assert (llama_7b.heads % c.tp == 0).all()
    assert ((c.vpp == 1) | ((c.pp > 1) & (c.accumulation % c.pp == 0))).all()
    alone = c.dp * c.cp == 1
    assert ((c.sharding == SHARDINGS.index(Sharding.NONE)) == alone).all()
    columns = np.stack([getattr(c, name) for name in Candidates.__dataclass_fields__], axis=1)
    assert len(np.unique(columns, axis=0)) == len(c)


def test_frameworks_are_not_asked_for_what_they_lack(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    scenario = pretrain(llama_7b, framework=None)
    gpt, deepspeed = (everything(space(scenario, h100, name)) for name in ("gpt", "deepspeed"))
    assert set(gpt.tp) == set(gpt.pp) == {1}
    assert {OFFLOADS[code] for code in set(gpt.offload)} == {Offload.NONE}
    assert {OFFLOADS[code] for code in set(deepspeed.offload)} == set(Offload)
    kept = deepspeed.offload == OFFLOADS.index(Offload.ALL)
    assert {SHARDINGS[code] for code in set(deepspeed.sharding[kept])} <= {Sharding.FSDP, Sharding.NONE}


def test_numbers_pick_the_same_candidates(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    found = space(pretrain(llama_7b, framework=None), h100)
    numbers = np.array([len(found) - 1, 0, 17, 3])
    whole, picked = everything(found), found.pick(numbers)
    for name in Candidates.__dataclass_fields__:
        assert (getattr(picked, name) == getattr(whole, name)[numbers]).all()


def test_tensor_parallel_ranks_share_heads_or_repeat_them(llama_7b: ModelArchitecture):
    grouped = replace(llama_7b, kv_heads=8)
    assert tensor_degrees(grouped, None, 64) == (1, 2, 4, 8, 16, 32)
    assert tensor_degrees(replace(llama_7b, heads=28, kv_heads=4), None, 8) == (1, 2, 4)
    assert tensor_degrees(llama_7b, 3, 8) == ()


def test_stages_hold_the_same_layers_or_nearly(llama_7b: ModelArchitecture):
    deep = replace(llama_7b, layers=126)
    cuts = cuts_of(deep, 8192, StrategyChoice(), EVERY_CUT, 8)
    pairs = set(zip(cuts.pp.tolist(), cuts.vpp.tolist(), strict=True))
    assert {(1, 1), (9, 14), (16, 1), (16, 8), (7, 2)} <= pairs
    assert all(stage_chunks(126, pp, vpp) * pp <= 126 * 1.05 for pp, vpp in pairs)
    assert set(cuts.cp.tolist()) == {1, 2, 4}
    fixed = cuts_of(deep, 8192, StrategyChoice(pp=5, tp=2), EVERY_CUT, 8)
    assert set(fixed.pp.tolist()) == {5}
    assert set(fixed.tp.tolist()) == {2}


def test_experts_divide(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    experts = MixtureOfExperts(num_experts=8, top_k=2, expert_ffn=4096)
    c = everything(space(pretrain(replace(llama_7b, moe=experts), framework=None), h100))
    assert set(c.ep.tolist()) == set(divisors(8))
    assert ((c.dp * c.cp * c.tp) % c.ep == 0).all()


def test_nodes_of_no_round_size(h100: Pool):
    rack = replace(h100, devices_per_node=72, counts=Range(1, 1024))
    places = Places.of(rack, rack.counts, None)
    assert places.hosts(np.array([64, 72, 128, 144, 100, 1024])).tolist() == [1, 1, 2, 2, 0, 16]
    fixed = Places.of(rack, rack.counts, 2)
    assert fixed.hosts(np.array([6, 7, 145])).tolist() == [2, 0, 0]
    assert (places.hosts(device_counts(places)) > 0).all()


def test_precisions_that_chip_and_framework_share(pretrain: Build, llama_7b: ModelArchitecture, h100: Pool):
    work, chip = work_of(pretrain(llama_7b).task), h100.accelerator
    eight = replace(h100, accelerator=replace(chip, peak_flops={**chip.peak_flops, Precision.FP8: 2e15}))
    assert precisions(work, eight, frameworks()["megatron"]) == (Precision.BF16, Precision.FP8)
    assert precisions(work, eight, frameworks()["gpt"]) == (Precision.BF16,)
    asked = replace(work, strategy=StrategyChoice(precision=Precision.FP4))
    assert precisions(asked, eight, frameworks()["megatron"]) == ()
    assert PRECISIONS[0] in Precision


@pytest.mark.parametrize(("number", "expected"), [(1, (1,)), (12, (1, 2, 3, 4, 6, 12)), (49, (1, 7, 49))])
def test_divisors(number: int, expected: tuple[int, ...]):
    assert divisors(number) == expected
