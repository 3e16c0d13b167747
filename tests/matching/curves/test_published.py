"""Figures that were published for these chips, which the packaged curves have to give back."""

import numpy as np
import pytest

from mofang.catalog.knowledge import Catalog
from mofang.matching.curves import Curves, curves_of

MIB = 2**20


def curves(name: str) -> Curves:
    return curves_of(Catalog.load().accelerator(name))


@pytest.mark.parametrize(
    ("chip", "precision", "share"),
    [  # of the dense peak: the middle of layers' shapes at 4,096 rows (tables of AIConfigurator)
        ("a100", "bf16", 0.92),
        ("h100", "bf16", 0.78),
        ("h200", "bf16", 0.74),
        ("b200", "bf16", 0.73),
        ("gb200", "bf16", 0.80),
        ("l40s", "bf16", 0.75),
        ("Intel Arc Pro B60", "bf16", 0.97),
        ("h100", "fp8", 0.62),
        ("h200", "fp8", 0.71),
        ("b200", "fp8", 0.35),
    ],
)
def test_large_products_reach_their_published_share_of_the_peak(chip: str, precision: str, share: float) -> None:
    accelerator = Catalog.load().accelerator(chip)
    n, k = np.meshgrid([2048, 4096, 5120, 8192, 10240, 16384], [2048, 4096, 7168, 8192])
    rates = 2 * 4096 * n * k / curves_of(accelerator).matmul(precision, 4096, n, k)
    assert np.median(rates) / accelerator.peak_flops[precision] == pytest.approx(share, rel=0.12)


def test_fp8_of_vendors_libraries() -> None:
    """8192^3: MI300X hipBLASLt 1,159 TFLOP/s, H100 cuBLASLt 1,290 (Azure's AI-benchmarking-guide)."""
    for chip, rate in (("mi300x", 1159e12), ("h100", 1290e12)):
        seconds = float(curves(chip).matmul("fp8", 8192, 8192, 8192, use="training"))
        assert 2 * 8192**3 / seconds == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize("chip", ["a100", "h100", "h200", "b200"])
def test_one_row_reads_weights_at_most_of_the_memory_bandwidth(chip: str) -> None:
    accelerator = Catalog.load().accelerator(chip)
    seconds = float(curves_of(accelerator).matmul("bf16", 1, 16384, 16384))
    assert 0.70 < 2 * 16384**2 / seconds / accelerator.memory_bandwidth < 0.90


@pytest.mark.parametrize(
    ("chip", "ranks", "bandwidth"),
    [  # bus bandwidth of NCCL's all-reduce of 64 MiB
        ("a100", 8, 197e9),
        ("h100", 8, 362e9),
        ("h200", 8, 367e9),
        ("NVIDIA RTX PRO 6000 Blackwell Server", 8, 24e9),
        ("Intel Arc Pro B60", 4, 18e9),
        ("mi300x", 8, 266e9),
    ],
)
def test_all_reduce_reaches_its_published_bus_bandwidth(chip: str, ranks: int, bandwidth: float) -> None:
    size = 64 * MIB
    seconds = float(curves(chip).collective("all-reduce", size, ranks))
    assert size * 2 * (ranks - 1) / ranks / seconds == pytest.approx(bandwidth, rel=0.12)


def test_small_messages_wait_for_latency_less_in_captured_kernels() -> None:
    """8 KiB on eight devices: NCCL 16-26 us, one-shot kernels 5-8 us on NVLink."""
    for chip in ("a100", "h100", "b200"):
        usual, captured = (
            float(curves(chip).collective(operation, 8192, 8)) for operation in ("all-reduce", "all-reduce-custom")
        )
        assert 14e-6 < usual < 30e-6
        assert 4e-6 < captured < 9e-6
