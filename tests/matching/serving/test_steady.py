"""Properties of iterations and steady states that any engine has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.domain.hardware import Precision
from mofang.matching.serving.passes import Iteration, Passes
from mofang.matching.serving.settings import engine_settings
from mofang.matching.serving.split import PrefillPool, reading, split_loop
from mofang.matching.serving.steady import closed_loop, static_batch

from .conftest import cut_of, load_with


@pytest.fixture(scope="module")
def passes(llama, pool_of):
    def make(tp: int = 4, n: int = 1, chip: str = "h100", **changes: object) -> Passes:
        pool = pool_of(chip)
        if changes:
            pool = replace(pool, accelerator=replace(pool.accelerator, **changes))
        cut = cut_of(tp=tp, n=n)
        return Passes(model=llama, pool=pool, deployments=cut, settings=engine_settings("vllm"))

    return make


def decoding(batch: float, context: float = 1000.0) -> Iteration:
    zero = np.zeros(1)
    return Iteration(decoding=np.array([batch]), context=np.array([context]), prompt=zero, prompts=zero, reach=zero + 1)


@settings(max_examples=20, deadline=None)
@given(batch=st.floats(1, 512), faster=st.floats(1.1, 4.0))
def test_more_bandwidth_is_never_slower(passes, batch: float, faster: float) -> None:
    usual = passes()
    chip = usual.pool.accelerator
    better = passes(name="faster", memory_bandwidth=chip.memory_bandwidth * faster)
    assert better.total(decoding(batch))[0] <= usual.total(decoding(batch))[0] * (1 + 1e-9)


@settings(max_examples=20, deadline=None)
@given(batch=st.floats(1, 256), more=st.floats(1.01, 4.0), longer=st.floats(1.0, 4.0))
def test_an_iteration_grows_with_requests_and_context(passes, batch: float, more: float, longer: float) -> None:
    assert passes().total(decoding(batch))[0] <= passes().total(decoding(batch * more))[0]
    assert passes().total(decoding(batch))[0] <= passes().total(decoding(batch, 1000.0 * longer))[0] * (1 + 1e-9)


def test_an_iteration_reads_the_weights_once(passes, llama) -> None:
    """One request's iteration takes at least what reading the rank's weights takes at the data sheet's bandwidth."""
    chip = passes().pool.accelerator
    least = llama.params * Precision.FP8.bytes / 4 / chip.memory_bandwidth
    seconds = passes().total(decoding(1.0))[0]
    assert least < seconds < 4 * least


def test_time_per_token_and_throughput_grow_with_concurrency(passes) -> None:
    flight = 2.0 ** np.arange(0, 9)
    load = load_with(flight)
    state = closed_loop(passes(n=len(flight)), load, flight)
    assert (np.diff(state.tpot_s) >= 0).all()
    assert (np.diff(state.tokens_per_s(load)) > 0).all()


@settings(max_examples=25, deadline=None)
@given(flight=st.floats(1, 400), most=st.floats(1, 200), inputs=st.floats(16, 8000), outputs=st.floats(2, 2000))
def test_littles_law_holds(passes, flight: float, most: float, inputs: float, outputs: float) -> None:
    load = load_with(flight, inputs=inputs, outputs=outputs)
    state = closed_loop(passes(), load, np.array([most]))
    stay = state.ttft_s + load.steps * state.tpot_s
    assert state.requests_per_s * stay == pytest.approx(load.concurrency, rel=1e-6) or state.ttft_s[0] == 0.0


def test_requests_beyond_the_places_only_wait(passes) -> None:
    load = load_with([64.0, 640.0])
    state = closed_loop(passes(n=2), load, np.array([64.0, 64.0]))
    assert state.tpot_s[1] == pytest.approx(state.tpot_s[0])
    assert state.requests_per_s[1] == pytest.approx(state.requests_per_s[0])
    assert state.ttft_s[1] > 5 * state.ttft_s[0]


def test_a_prefix_cache_saves_reading(passes) -> None:
    load = load_with(32.0, inputs=4000.0)
    cached = replace(load, cached=load.input * 0.9)
    plain, saved = (closed_loop(passes(), one, np.array([32.0])) for one in (load, cached))
    assert saved.prefill_s[0] < plain.prefill_s[0] / 3
    assert saved.requests_per_s[0] > plain.requests_per_s[0]


def test_a_static_batch_is_its_two_phases(passes) -> None:
    load = load_with(16.0)
    state = static_batch(passes(), load)
    assert 16.0 / state.requests_per_s[0] == pytest.approx(state.ttft_s[0] + 499.0 * state.tpot_s[0])


def test_divided_equal_chips_decode_undisturbed(passes) -> None:
    """With plenty of prefill replicas, decode takes its own iteration, and no longer than when prompts come between."""
    load = load_with(64.0)
    whole = closed_loop(passes(), load, np.array([64.0]))
    pool = PrefillPool(
        first=reading(passes(), load), prefills=np.array([64.0]), decoders=np.ones(1), transfer_s=np.array([1e-4])
    )
    divided = split_loop(passes(), load, pool, np.array([64.0]))
    assert divided.tpot_s[0] <= whole.tpot_s[0]
    assert divided.tpot_s[0] == pytest.approx(whole.decode_s[0], rel=0.05)


def test_divided_rate_is_bound_by_prefill(passes) -> None:
    load = load_with(256.0, inputs=8000.0, outputs=64.0)
    first = reading(passes(), load)
    pool = PrefillPool(first=first, prefills=np.ones(1), decoders=np.ones(1), transfer_s=np.zeros(1))
    state = split_loop(passes(), load, pool, np.array([256.0]))
    assert state.requests_per_s[0] <= first.rate[0]
    assert state.requests_per_s[0] == pytest.approx(first.rate[0], rel=0.1)
    stay = state.ttft_s + load.steps * state.tpot_s
    assert state.requests_per_s * stay == pytest.approx(load.concurrency, rel=1e-3)
