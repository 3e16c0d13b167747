"""What must hold of every step time, whatever the coefficients."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.catalog.frameworks import frameworks
from mofang.catalog.knowledge import Catalog
from mofang.catalog.pools import described_pool
from mofang.domain.hardware import Accelerator, Link, Pool, Precision
from mofang.domain.strategy import Method, Offload, Recompute, Sharding
from mofang.matching.candidates import Candidates
from mofang.matching.estimate import PARTS, Estimates, estimate
from mofang.matching.profiles import profile_of
from mofang.matching.schedule import schedule_of
from mofang.matching.stages import stages
from mofang.matching.tables import Places
from mofang.matching.work import Work
from mofang.units import parse_request

Build = Callable[..., Candidates]
MEGATRON = frameworks()["megatron"]


def _estimate(task: Work, pool: Pool, found: Candidates) -> Estimates:
    return estimate(task, pool, found, MEGATRON)


def test_parts_add_up_to_the_step(work: Callable[..., Work], pool: Callable[[str], Pool], candidates: Build):
    found = candidates(
        nodes=[1, 2, 4, 4, 1],
        devices=[8, 16, 32, 32, 8],
        tp=[1, 2, 4, 2, 8],
        pp=[1, 2, 4, 4, 1],
        vpp=[1, 1, 2, 4, 1],
        cp=[1, 2, 1, 2, 1],
        dp=[8, 2, 2, 2, 1],
        sharding=[Sharding.FSDP, Sharding.ZERO1, Sharding.ZERO2, Sharding.DDP, Sharding.NONE],
        recompute=[Recompute.NONE, Recompute.FULL, Recompute.SELECTIVE, Recompute.NONE, Recompute.FULL],
    )
    one = _estimate(work("llama-3.1-8b"), pool("H100:32"), found)
    assert tuple(one.time) == PARTS
    assert all((seconds >= 0.0).all() for seconds in one.time.values())
    assert np.sum(list(one.time.values()), axis=0) == pytest.approx(one.step_time)
    busy = sum(one.time[part] for part in ("compute", "attention", "memory", "recompute", "optimizer"))
    assert one.busy_s == pytest.approx(busy)


@settings(deadline=None, max_examples=15)
@given(stage_count=st.integers(1, 16), chunks=st.integers(1, 8), times=st.integers(1, 512))
def test_the_bubble_is_that_of_interleaved_1f1b(stage_count: int, chunks: int, times: int):
    """arXiv:2104.04473, section 2.2: bubble over ideal time is (p - 1) / (v m) where all stages are alike."""
    catalog = Catalog.load()
    model = replace(catalog.model("llama-3.1-8b"), layers=stage_count * chunks)
    task = Work(model=model, sequence=4096, global_batch=times)
    ones = {name: np.ones(1, dtype=np.int64) for name in Candidates.__dataclass_fields__}
    found = Candidates(**ones | {"pp": np.array([stage_count]), "vpp": np.array([chunks])})
    found = replace(found, accumulation=np.array([times]), precision=np.array([4]))
    one = schedule_of(task, described_pool(parse_request("H100:512"), catalog), found, profile_of(MEGATRON))
    alike = {"head": np.zeros(1), "table": np.zeros(1), "send": np.zeros(1), "layer": one.micro["total"] / model.layers}
    first = Places(rows=np.zeros(1, dtype=np.intp), found=one.cuts.found)
    alike = replace(one, cuts=first, micro={**_row(one.micro, one.cuts.index()), **alike})
    ideal = times * float(alike.micro["total"][0]) / stage_count
    assert alike.part("pipeline")[0] / ideal == pytest.approx((stage_count - 1) / (chunks * times), abs=1e-9)


def _row(columns: dict[str, np.ndarray], place: np.ndarray) -> dict[str, np.ndarray]:
    return {name: column[place] for name, column in columns.items()}


@settings(deadline=None)
@given(layers=st.integers(1, 130), most=st.integers(1, 70))
def test_every_layer_is_on_a_stage(layers: int, most: int):
    table = stages(layers, most)
    count = np.arange(1, most + 1)
    assert (table.fullest[1:] * count >= layers).all()
    assert (table.fullest[1:] == np.ceil(layers / count)).all()
    assert (table.last[1:] <= table.fullest[1:]).all()
    assert (table.first[1:] <= table.fullest[1:]).all()


def test_layers_that_do_not_divide_are_missing_beside_the_head():
    table = stages(126, 16)
    assert (table.fullest[16], table.first[16], table.last[16]) == (8, 7, 7)
    assert (table.fullest[9], table.last[9]) == (14, 14)


def test_without_a_degree_there_is_none_of_its_time(
    work: Callable[..., Work], pool: Callable[[str], Pool], candidates: Build
):
    one = _estimate(work("llama-3.1-8b"), pool("H100:8"), candidates(dp=1, devices=1))
    for part in ("tensor-parallel", "context-parallel", "expert-parallel", "pipeline", "data-parallel", "recompute"):
        assert one.time[part][0] == pytest.approx(0.0, abs=1e-9), part


@pytest.mark.parametrize(
    ("degree", "part"),
    [("tp", "tensor-parallel"), ("cp", "context-parallel"), ("pp", "pipeline"), ("dp", "data-parallel")],
)
def test_slower_links_cost_time(
    degree: str, part: str, work: Callable[..., Work], pool: Callable[[str], Pool], candidates: Build
):
    task, found = work("llama-3.1-8b", 16384), candidates(devices=8, **{degree: 8})
    fast = pool("H100:8")
    slow = replace(fast, intra=Link(latency_s=fast.intra.latency_s * 4, bandwidth=fast.intra.bandwidth / 16))
    assert _estimate(task, slow, found).time[part][0] > _estimate(task, fast, found).time[part][0]


@settings(deadline=None, max_examples=10)
@given(
    tp=st.sampled_from([1, 2, 8]),
    pp=st.sampled_from([1, 4]),
    cp=st.sampled_from([1, 2]),
    dp=st.sampled_from([1, 4]),
    sharding=st.sampled_from(list(Sharding)[1:]),
    precision=st.sampled_from([Precision.BF16, Precision.FP8]),
    faster=st.floats(1.1, 4.0),
)
def test_better_chips_and_networks_are_never_slower(
    tp: int, pp: int, cp: int, dp: int, sharding: Sharding, precision: Precision, faster: float
):
    catalog = Catalog.load()
    task = Work(model=catalog.model("llama-3.1-8b"), sequence=8192, global_batch=64)
    devices = tp * pp * cp * dp
    found = _one(tp=tp, pp=pp, cp=cp, dp=dp, devices=devices, nodes=-(-devices // 8))
    found = replace(found, sharding=np.array([list(Sharding).index(sharding)]))
    found = replace(found, precision=np.array([list(Precision).index(precision)]))
    plain = described_pool(parse_request("H100:256"), catalog)
    before = float(_estimate(task, plain, found).step_time[0])
    for better in _better(plain, faster):
        assert float(_estimate(task, better, found).step_time[0]) <= before * (1.0 + 1e-9)


def _one(**columns: int) -> Candidates:
    ones = dict.fromkeys(Candidates.__dataclass_fields__, 1) | {
        "accumulation": 16,
        "recompute": 0,
        "method": 0,
        "offload": 0,
    }
    return Candidates(**{name: np.array([value]) for name, value in (ones | columns).items()})


def _better(pool: Pool, times: float) -> list[Pool]:
    def chip(**changes: object) -> Accelerator:
        return replace(pool.accelerator, **changes)

    peaks = {precision: peak * times for precision, peak in pool.accelerator.peak_flops.items()}
    wide = pool.accelerator.memory_bandwidth * times
    return [
        replace(pool, accelerator=chip(peak_flops=peaks)),
        replace(pool, accelerator=chip(memory_bandwidth=wide)),
        replace(pool, inter=Link(latency_s=pool.inter.latency_s, bandwidth=pool.inter.bandwidth * times)),
        replace(pool, intra=Link(latency_s=pool.intra.latency_s, bandwidth=pool.intra.bandwidth * times)),
    ]


@pytest.mark.parametrize("framework", ["megatron", "torchtitan", "deepspeed", "gpt"])
def test_more_recomputation_is_never_faster(
    framework: str, work: Callable[..., Work], pool: Callable[[str], Pool], candidates: Build
):
    found = candidates(
        dp=4, tp=2, recompute=[Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL], sharding=Sharding.FSDP
    )
    none, selective, full = estimate(work("llama-3.1-8b"), pool("H100:8"), found, frameworks()[framework]).step_time
    assert none <= selective < full < 1.6 * none


def test_adapters_are_cheaper_than_all_weights_and_packed_ones_dearer(
    work: Callable[..., Work], pool: Callable[[str], Pool], candidates: Build
):
    one = _estimate(
        work("llama-3.1-8b"),
        pool("H100:8"),
        candidates(dp=8, method=[Method.FULL, Method.LORA, Method.QLORA], sharding=Sharding.ZERO1),
    )
    full, lora, qlora = one.step_time
    assert 0.55 * full < lora < 0.85 * full
    assert lora < qlora < full
    assert one.time["data-parallel"][1] < 0.02 * one.time["data-parallel"][0]


def test_narrow_products_are_faster_but_not_twice(
    work: Callable[..., Work], pool: Callable[[str], Pool], candidates: Build
):
    bf16, fp8 = _estimate(
        work("llama-3.1-70b", 8192),
        pool("H100:64"),
        candidates(nodes=8, devices=64, tp=4, pp=4, dp=4, precision=[Precision.BF16, Precision.FP8]),
    ).step_time
    assert 1.2 < bf16 / fp8 < 1.9


def test_the_host_updates_slowly(work: Callable[..., Work], pool: Callable[[str], Pool], candidates: Build):
    found = candidates(dp=8, offload=[Offload.NONE, Offload.OPTIMIZER, Offload.ALL], accumulation=1)
    one = _estimate(work("llama-3.1-8b"), pool("H100:8"), found)
    none, optimizer, everything = one.step_time
    assert none < optimizer <= everything
    assert one.time["optimizer"][1] > 10 * one.time["optimizer"][0]


def test_experts_between_nodes_wait_for_the_network(
    work: Callable[..., Work], pool: Callable[[str], Pool], candidates: Build
):
    found = candidates(nodes=8, devices=64, dp=64, ep=[8, 64], micro_batch=4)
    inside, across = _estimate(work("qwen3-235b-a22b"), pool("H100:64"), found).time["expert-parallel"]
    assert across > 3.0 * inside
    rack = _estimate(work("qwen3-235b-a22b"), pool("GB200:64"), replace(found, nodes=np.array([1, 1])))
    assert rack.time["expert-parallel"][1] < 2.0 * rack.time["expert-parallel"][0]


def test_more_nodes_lose_a_little_more(work: Callable[..., Work], pool: Callable[[str], Pool], candidates: Build):
    nodes = np.array([2, 8, 32, 128])
    found = candidates(nodes=nodes, devices=8 * nodes, dp=8 * nodes, micro_batch=2)
    times = _estimate(work("llama-3.1-8b", global_batch=16384), pool("H100:1024"), found).step_time
    assert (np.diff(times) > 0).all()
    assert times[-1] < 1.15 * times[0]


def test_odd_rows_get_a_time_too(work: Callable[..., Work], pool: Callable[[str], Pool], candidates: Build):
    found = candidates(
        nodes=[35, 1, 2],
        devices=[280, 1, 11],
        tp=[8, 1, 1],
        pp=[35, 1, 1],
        dp=[1, 1, 11],
        vpp=[3, 1, 1],
        micro_batch=[1, 12, 3],
        accumulation=[280, 7, 21],
    )
    times = _estimate(work("llama-3.1-405b", 2048), pool("A100:280"), found).step_time
    assert np.isfinite(times).all()
    assert (times > 0).all()


def test_no_candidates_no_times(work: Callable[..., Work], pool: Callable[[str], Pool], candidates: Build):
    found = candidates().where(np.zeros(1, dtype=np.bool_))
    one = _estimate(work("llama-3.1-8b"), pool("H100:8"), found)
    assert len(one.step_time) == len(one.time["compute"]) == 0


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_row_has_the_same_time_in_any_company(seed: int):
    catalog = Catalog.load()
    pool = described_pool(parse_request("H100:512"), catalog)
    task = Work(model=catalog.model("llama-3.1-70b"), sequence=4096, global_batch=512)
    chance = np.random.default_rng(seed)
    columns = {name: chance.choice([1, 2, 4], 40) for name in ("tp", "pp", "cp", "vpp", "dp", "micro_batch")}
    columns |= {"recompute": chance.integers(0, 3, 40), "sharding": chance.integers(1, 5, 40)}
    devices = columns["tp"] * columns["pp"] * columns["cp"] * columns["dp"]
    columns |= {"devices": devices, "nodes": np.maximum(devices // 8, 1), "accumulation": chance.integers(1, 99, 40)}
    rest = {name: np.full(40, value[0]) for name in Candidates.__dataclass_fields__ if name not in columns
            for value in [getattr(_one(), name)]}  # fmt: skip
    found = Candidates(**columns, **rest)
    together = _estimate(task, pool, found)
    order = chance.permutation(40)
    apart = np.concatenate(
        [_estimate(replace(task), pool, found.where(order[k : k + 7])).step_time for k in range(0, 40, 7)]
    )
    assert apart == pytest.approx(together.step_time[order], rel=1e-12)
