"""What a source leaves open is filled the same way every time; what cannot be compared is said to be."""

from dataclasses import replace

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import load_training
from mofang.domain.hardware import Precision
from mofang.domain.strategy import Recompute, Sharding
from mofang.matching.calibration.setting import Setting
from mofang.matching.calibration.translate import Unscorable, translate
from mofang.matching.candidates import PRECISIONS, RECOMPUTES, SHARDINGS


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load()


@pytest.fixture(scope="module")
def row(catalog):
    """Llama 3.1 70B on 64 H100, with every degree stated."""
    rows = load_training(None, catalog).rows
    return next(one for one in rows if one.source_id == "dgxc_llama31_70b" and one.num_devices == 64)


def column(setting, name):
    return int(getattr(setting.candidates, name)[0])


def test_a_stated_layout_is_taken_as_it_is(row, catalog):
    found = translate(row, catalog)
    assert isinstance(found, Setting)
    stated = {name: column(found, name) for name in ("tp", "pp", "cp", "vpp", "micro_batch", "devices")}
    assert stated == {"tp": 4, "pp": 4, "cp": 2, "vpp": 5, "micro_batch": 1, "devices": 64}
    assert column(found, "dp") == 2
    assert column(found, "accumulation") == 64
    assert found.work.global_batch == row.global_batch


def test_tokens_and_step_time_say_the_same(row, catalog):
    found = translate(row, catalog)
    seconds = found.work.global_batch * found.work.sequence / 1121.19 / 64
    assert found.tokens_per_s(seconds) == pytest.approx(1121.19)


def test_an_open_layout_becomes_one_that_multiplies_and_fits(row, catalog):
    found = translate(replace(row, tp=None, pp=None, cp=None, dp=None, vpp=None, recompute=None), catalog)
    product = column(found, "tp") * column(found, "pp") * column(found, "cp") * column(found, "dp")
    assert product == 64
    # What ran may seem to fill a little more than there is: the estimate of memory errs too.
    assert found.memory_bytes < 1.2 * 80 * 2**30
    assert {"tp", "pp", "recompute"} <= set(found.assumed)


def test_a_model_too_large_for_one_device_is_cut_or_sharded(row, catalog):
    found = translate(replace(row, tp=None, pp=None, cp=None, dp=None, vpp=None, sharding=None), catalog)
    assert column(found, "tp") * column(found, "pp") > 1


def test_frameworks_shard_as_they_do(row, catalog):
    megatron = translate(replace(row, sharding=None), catalog)
    assert SHARDINGS[column(megatron, "sharding")] is Sharding.ZERO1
    fsdp = translate(replace(row, framework="fms-fsdp", sharding=None, tp=1, pp=1, cp=1, dp=None, vpp=None), catalog)
    assert SHARDINGS[column(fsdp, "sharding")] is Sharding.FSDP


@pytest.mark.parametrize(
    ("written", "task", "taken"),
    [
        (None, "pretrain", Precision.BF16),
        (None, "lora (MLPerf)", Precision.FP8),
        (Precision.FP32, "pretrain", Precision.TF32),
        (Precision.FP8, "pretrain", Precision.FP8),
    ],
)
def test_precision_by_default(row, catalog, written, task, taken):
    found = translate(replace(row, precision=written, task=task), catalog)
    assert PRECISIONS[column(found, "precision")] is taken


def test_recomputation_as_stated(row, catalog):
    found = translate(replace(row, recompute=Recompute.FULL), catalog)
    assert RECOMPUTES[column(found, "recompute")] is Recompute.FULL


def test_the_links_that_a_source_states_are_used(row, catalog):
    found = translate(replace(row, inter_bandwidth=6.25e9, devices_per_node=4), catalog)
    assert found.pool.inter.bandwidth == 6.25e9
    assert found.pool.devices_per_node == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architecture": None}, Unscorable.MODEL),
        ({"accelerator": ""}, Unscorable.CHIP),
        ({"num_devices": None}, Unscorable.COUNT),
        ({"precision": Precision.FP64, "accelerator": "Huawei Ascend 910B3 64GB"}, Unscorable.PRECISION),
        ({"tp": 3}, Unscorable.LAYOUT),
        ({"task": "layer microbenchmark"}, Unscorable.PART),
    ],
)
def test_what_cannot_be_compared_says_why(row, catalog, change, reason):
    assert translate(replace(row, **change), catalog) is reason


def test_a_batch_that_ranks_cannot_share_is_rounded_up(row, catalog):
    found = translate(replace(row, global_batch=129), catalog)
    assert isinstance(found, Setting)
    assert found.work.global_batch == 130
