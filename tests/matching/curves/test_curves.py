"""What holds for every chip, timed or not: shapes, monotonicity, the data sheet as a bound, honest uncertainty."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.catalog.knowledge import Catalog
from mofang.domain.hardware import Accelerator, Precision
from mofang.errors import CatalogError, UsageError
from mofang.matching.curves import Curves, curves_of

CHIPS = Catalog.load().accelerators
NAMES = [chip.name for chip in CHIPS]
BY_NAME = dict(zip(NAMES, CHIPS, strict=True))
sizes = st.integers(min_value=1, max_value=100_000)
few = settings(max_examples=40, deadline=None)


def curves(name: str) -> Curves:
    return curves_of(Catalog.load().accelerator(name))


@few
@given(name=st.sampled_from(NAMES), m=sizes, n=sizes, k=sizes, more=st.integers(1, 4))
def test_a_larger_product_never_takes_less_time(name: str, m: int, n: int, k: int, more: int) -> None:
    chip = curves_of(BY_NAME[name])
    shapes = np.array([[m, n, k], [m * more, n, k], [m, n * more, k], [m, n, k * more]], dtype=float)
    times = chip.matmul("bf16", shapes[:, 0], shapes[:, 1], shapes[:, 2])
    assert np.isfinite(times).all()
    assert times[0] > 0
    # one extra row may leave the slow kernels of a single row: the gain is bounded by the rows' kernels alone
    assert (times[1:] >= times[0] * 0.7).all()
    assert (times[2:] >= times[0] * (1 - 1e-9)).all()


@pytest.mark.parametrize("chip", CHIPS, ids=NAMES)
def test_no_product_beats_the_data_sheet(chip: Accelerator) -> None:
    m, n, k = np.meshgrid(2.0 ** np.arange(0, 19, 2), 2.0 ** np.arange(7, 18, 2), 2.0 ** np.arange(7, 16, 2))
    for precision, peak in chip.peak_flops.items():
        if precision in {Precision.BF16, Precision.FP8, Precision.FP4}:
            times = curves_of(chip).matmul(precision, m, n, k)
            assert (2 * m * n * k / times <= peak * 1.001).all()
            assert (n * k * 0.5 * precision.bytes / times <= chip.memory_bandwidth).all()


@few
@given(name=st.sampled_from(NAMES), ranks=st.integers(2, 64), size=st.integers(1, 2**32), more=st.integers(2, 8))
def test_a_larger_tensor_never_travels_faster(name: str, ranks: int, size: int, more: int) -> None:
    chip = curves_of(BY_NAME[name])
    for operation in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "send-recv", "all-reduce-custom"):
        small, large = chip.collective(operation, [size, size * more], ranks)
        assert 0 < small <= large
    assert chip.collective("all-reduce-custom", size, ranks) <= chip.collective("all-reduce", size, ranks)


def test_one_rank_has_nothing_to_exchange() -> None:
    assert (curves("h100").collective("all-reduce", [1e6, 1e9], 1) == 0).all()


def test_ranks_and_sizes_broadcast() -> None:
    times = curves("h100").collective("all_gather", np.array([[1e6], [1e8]]), np.array([1, 2, 4, 8]))
    assert times.shape == (2, 4)
    assert (np.diff(times[1]) > 0).all()


@few
@given(name=st.sampled_from(NAMES), batch=st.integers(1, 256), length=st.integers(1, 100_000))
def test_attention_grows_with_what_it_sees(name: str, batch: int, length: int) -> None:
    chip = curves_of(BY_NAME[name])
    for phase, sequence in (("decode", 1), ("prefill", length)):
        near, far = chip.attention(32, 8, 128, batch, sequence, [length, 2 * length], phase=phase)
        assert 0 < near <= far


def test_a_prompt_with_a_cached_prefix_costs_less_than_the_whole_and_more_than_its_own_part() -> None:
    own, with_prefix = curves("h100").attention(32, 8, 128, 1, 2048, [2048, 8192])
    assert own < with_prefix < curves("h100").attention(32, 8, 128, 1, 8192, 8192)


@few
@given(name=st.sampled_from(NAMES), tokens=st.integers(1, 20_000), ep=st.sampled_from([1, 2, 8, 32]))
def test_experts_take_longer_for_more_tokens(name: str, tokens: int, ep: int) -> None:
    few_tokens, more = curves_of(BY_NAME[name]).experts("bf16", [tokens, 2 * tokens], 7168, 2048, 256, 8, ep=ep)
    assert 0 < few_tokens <= more


def test_one_token_reads_only_the_experts_it_is_sent_to() -> None:
    chip = Catalog.load().accelerator("h100")
    weights = 3 * 7168 * 2048 * 2
    one = float(curves_of(chip).experts("bf16", 1, 7168, 2048, 256, 8))
    many = float(curves_of(chip).experts("bf16", 512, 7168, 2048, 256, 8))
    assert one * chip.memory_bandwidth < 20 * weights
    assert many * chip.memory_bandwidth > 200 * weights


def test_skewed_routing_on_divided_experts_waits_for_the_busiest_device() -> None:
    even, uneven = curves("h100").experts("bf16", 8192, 7168, 2048, 256, 8, ep=16, skew=[0.0, 1.2])
    assert uneven > 1.1 * even


def test_a_format_without_a_peak_is_stored_in_it_and_multiplied_in_bf16() -> None:
    a100 = curves("a100")
    one_row, many_rows = a100.matmul("fp8", [1, 16384], 8192, 8192) / a100.matmul("bf16", [1, 16384], 8192, 8192)
    assert one_row < 0.65
    assert many_rows == pytest.approx(1, abs=0.02)
    assert not a100.known["matmul/fp8"]


def test_training_multiplies_fp8_with_the_vendors_library() -> None:
    gb200 = curves("gb200")
    serving, training = (float(gb200.matmul("fp8", 8192, 8192, 8192, use=use)) for use in ("serving", "training"))
    assert training < 0.7 * serving  # published: 2,848 TFLOP/s beside 0.34 to 0.36 of 5,000


def test_a_chip_known_by_its_data_sheet_borrows_and_says_so() -> None:
    chip = replace(
        Catalog.load().accelerator("h100"), name="Nobody X1", vendor="Nobody", architecture="X", scaleup_link="XLink"
    )
    new, timed = curves_of(chip), curves("h100")
    assert not any(new.known.values())
    assert timed.known["matmul"]
    assert all(new.spread[name] > 2 * timed.spread[name] for name in ("matmul", "attention", "experts", "collective"))
    assert "borrowed from" in new.basis
    assert "another line of chips" in new.basis


def test_what_is_borrowed_scales_with_the_data_sheet() -> None:
    chip = replace(Catalog.load().accelerator("910b2"), name="Plain")
    twice = replace(
        chip,
        name="Twice",
        memory_bandwidth=2 * chip.memory_bandwidth,
        peak_flops={precision: 2 * peak for precision, peak in chip.peak_flops.items()},
        scaleup_bandwidth=2 * chip.scaleup_bandwidth,
    )
    slow, fast = curves_of(chip), curves_of(twice)
    assert slow.matmul("bf16", 65536, 8192, 8192) / fast.matmul("bf16", 65536, 8192, 8192) == pytest.approx(2, rel=0.01)
    assert slow.stream(1e9) / fast.stream(1e9) == pytest.approx(2, rel=0.02)
    assert slow.collective("all-reduce", 2**33, 8) / fast.collective("all-reduce", 2**33, 8) > 1.95


def test_the_nearest_relative_lends() -> None:
    assert "NVIDIA A100-SXM-80GB (same architecture)" in curves("a800").basis
    assert "AMD Instinct MI300X (same architecture)" in curves("mi325x").basis
    assert "scaled by large fp8 products of AMD Instinct MI300X" in curves("mi355x").basis


def test_fewer_ranks_of_a_mesh_share_fewer_links() -> None:
    mi300x = curves("mi300x")
    two, eight = (
        2**28 * factor / mi300x.collective("all-reduce", 2**28, ranks) for factor, ranks in ((1, 2), (1.75, 8))
    )
    assert two < eight / 4


def test_beyond_its_domain_a_chip_goes_by_pcie() -> None:
    paired = curves("NVIDIA A100-PCIe-80GB")
    assert paired.collective("all-reduce", 2**26, 4) > 4 * paired.collective("all-reduce", 2**26, 2)


def test_every_number_format_and_operator_has_its_uncertainty() -> None:
    for chip in CHIPS:
        made = curves_of(chip)
        assert made.known.keys() == made.spread.keys()
        assert all(0 < value <= 1.5 for value in made.spread.values())
        assert {"matmul", "matmul/int4", "attention-decode/fp8", "experts/fp4", "collective/send-recv"} <= set(
            made.known
        )


def test_the_same_chip_is_built_once() -> None:
    assert curves_of(Catalog.load().accelerator("h100")) is curves_of(Catalog.load().accelerator("h100"))


def test_unknown_names_are_one_clear_line() -> None:
    with pytest.raises(UsageError, match="no number format 'fp7'"):
        curves("h100").matmul("fp7", 1, 1, 1)
    with pytest.raises(UsageError, match="no collective 'gossip'"):
        curves("h100").collective("gossip", 1, 2)


def test_a_chip_without_bandwidth_is_refused() -> None:
    chip = replace(Catalog.load().accelerator("h100"), name="Bare", memory_bandwidth=0.0)
    with pytest.raises(CatalogError, match="Bare has no memory bandwidth"):
        curves_of(chip).matmul("bf16", 1, 1, 1)
