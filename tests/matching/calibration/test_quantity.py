"""Tokens/s from whatever a source states, as it counts FLOP."""

from dataclasses import replace

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.domain.hardware import Precision
from mofang.domain.measurement import FlopConvention, TrainingMeasurement
from mofang.domain.strategy import Method, Recompute
from mofang.matching.calibration.quantity import Quantity, flops_per_token, speed_of


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load()


@pytest.fixture
def row(catalog):
    return TrainingMeasurement(
        source_id="made_up",
        source="",
        line=2,
        model="llama-3-70b",
        architecture=catalog.model("llama-3-70b"),
        accelerator="NVIDIA H100-SXM-80GB",
        accelerator_text="H100",
        num_devices=64,
        devices_per_node=8,
        framework="megatron",
        framework_text="Megatron-LM",
        task="pretrain",
        method=Method.FULL,
        precision=Precision.BF16,
        precision_text="BF16",
        sequence=8192,
        global_batch=128,
        flop_convention=FlopConvention.MODEL,
    )


def test_tokens_come_before_step_time_before_flops_before_mfu(row, catalog):
    full = replace(row, tokens_per_s_per_device=1000.0, step_time_s=15.0, flops_per_device=4e14, mfu=0.4)
    for gone, quantity in (
        ({}, Quantity.TOKENS),
        ({"tokens_per_s_per_device": None}, Quantity.STEP_TIME),
        ({"tokens_per_s_per_device": None, "step_time_s": None}, Quantity.FLOPS),
        ({"tokens_per_s_per_device": None, "step_time_s": None, "flops_per_device": None}, Quantity.MFU),
    ):
        found = speed_of(replace(full, **gone), row.architecture, 8192, catalog)
        assert found.quantity is quantity
    assert speed_of(row, row.architecture, 8192, catalog) is None


def test_step_time_counts_the_global_batch_over_all_devices(row, catalog):
    found = speed_of(replace(row, step_time_s=16.0), row.architecture, 8192, catalog)
    assert found.tokens_per_s_per_device == pytest.approx(128 * 8192 / 16.0 / 64)


def test_published_pairs_of_tokens_and_flops_agree_with_the_convention(row, catalog):
    # NVIDIA's README of Megatron-LM: LLaMA3-70B, 64 H100, 1,621 tokens/s and 780 TFLOP/s a device.
    assert 780e12 / flops_per_token(row, row.architecture, 8192) == pytest.approx(1621, rel=0.01)
    # Megatron Bridge 25.11: LLaMA3-70B on GB300, 4,520 tokens/s and 2,030 TFLOP/s: attention counted half.
    bridge = replace(row, framework_text="Megatron-Bridge (Megatron-Core, NeMo 25.11)")
    assert 2030e12 / flops_per_token(bridge, row.architecture, 8192) == pytest.approx(4520, rel=0.01)


def test_adapters_count_four_of_six_and_recomputing_hardware_eight_of_six(row):
    whole = flops_per_token(row, row.architecture, 8192)
    assert flops_per_token(replace(row, method=Method.LORA), row.architecture, 8192) == pytest.approx(whole * 4 / 6)
    again = replace(row, flop_convention=FlopConvention.HARDWARE, recompute=Recompute.FULL)
    assert flops_per_token(again, row.architecture, 8192) == pytest.approx(whole * 4 / 3)
    kept = replace(row, flop_convention=FlopConvention.HARDWARE, recompute=Recompute.NONE)
    assert flops_per_token(kept, row.architecture, 8192) == pytest.approx(whole)


def test_mfu_is_of_the_peak_of_its_precision(row, catalog):
    found = speed_of(replace(row, mfu=0.5), row.architecture, 8192, catalog)
    counted = flops_per_token(row, row.architecture, 8192)
    assert found.tokens_per_s_per_device == pytest.approx(0.5 * 989e12 / counted)
    assert speed_of(replace(row, mfu=0.5, accelerator=""), row.architecture, 8192, catalog) is None
