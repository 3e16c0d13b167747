"""Workers on processor cores: what is known exactly, and how the rest behaves."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mofang.domain.hardware import Pool
from mofang.domain.model import ModelArchitecture
from mofang.domain.strategy import Method, Offload, Precision, Recompute, Sharding
from mofang.matching.candidates import METHODS, OFFLOADS, PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.memory import PARTS, host_bytes, memory_parts
from mofang.matching.work import Work

PROPERTY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def row(
    *,
    workers: int = 1,
    sharding: Sharding = Sharding.NONE,
    precision: Precision = Precision.FP32,
    recompute: Recompute = Recompute.NONE,
    method: Method = Method.FULL,
    micro_batch: int = 1,
    accumulation: int = 1,
) -> Candidates:
    values = {
        "nodes": 1,
        "devices": workers,
        "threads": 1,
        "dp": workers,
        **dict.fromkeys(("tp", "pp", "cp", "ep", "vpp"), 1),
        "micro_batch": micro_batch,
        "accumulation": accumulation,
        "precision": PRECISIONS.index(precision),
        "recompute": RECOMPUTES.index(recompute),
        "sharding": SHARDINGS.index(sharding),
        "compile": 0,
        "method": METHODS.index(method),
        "offload": OFFLOADS.index(Offload.NONE),
    }
    return Candidates(**{name: np.array([value]) for name, value in values.items()})


def size(model: ModelArchitecture, pool: Pool, candidates: Candidates, sequence: int = 128) -> float:
    work = Work(model=model, sequence=sequence, global_batch=8)
    return float(sum(memory_parts(work, pool, candidates).values())[0])


def test_state_is_16_bytes_a_parameter_and_shared_under_fsdp(small: ModelArchitecture, cores: Pool):
    work = Work(model=small, sequence=64, global_batch=8)
    cuts = ((row(), 16), (row(workers=2, sharding=Sharding.DDP), 16), (row(workers=2, sharding=Sharding.FSDP), 8))
    for candidates, expected in cuts:
        parts = memory_parts(work, cores, candidates)
        state = parts["weights"] + parts["gradients"] + parts["optimizer"]
        assert state[0] == pytest.approx(expected * small.params)
        assert tuple(sorted(parts)) == tuple(sorted(PARTS))


def test_adapters_leave_the_state_of_frozen_weights_out(small: ModelArchitecture, cores: Pool):
    work = Work(model=small, sequence=64, global_batch=8)
    full, lora = (memory_parts(work, cores, row(method=method)) for method in (Method.FULL, Method.LORA))
    assert lora["optimizer"][0] < full["optimizer"][0] / 2
    assert lora["weights"][0] >= full["weights"][0]


def test_a_node_needs_what_its_workers_need(small: ModelArchitecture, cores: Pool):
    work = Work(model=small, sequence=64, global_batch=8)
    both = row(workers=2, sharding=Sharding.DDP)
    assert host_bytes(work, cores, both, np.array([3e8]))[0] == pytest.approx(6e8)


def test_what_loads_a_compiler_starts_larger(small: ModelArchitecture, cores: Pool):
    work = Work(model=small, sequence=16, global_batch=8)
    plain, recomputed = (memory_parts(work, cores, row(recompute=one)) for one in (Recompute.NONE, Recompute.FULL))
    assert recomputed["framework"][0] > plain["framework"][0]


def test_an_unprobed_worker_is_not_free(small: ModelArchitecture, cores: Pool):
    assert size(small, replace(cores, rates=None), row()) > 1e8


@PROPERTY
@given(
    micro_batch=st.integers(1, 16),
    accumulation=st.integers(1, 3),
    sequence=st.sampled_from([16, 64, 256]),
    layers=st.integers(1, 12),
    vocab=st.sampled_from([256, 4096, 65536]),
    precision=st.sampled_from([Precision.FP32, Precision.BF16]),
    sharding=st.sampled_from([Sharding.DDP, Sharding.FSDP]),
)
def test_more_of_anything_never_needs_less(
    small: ModelArchitecture,
    cores: Pool,
    micro_batch: int,
    accumulation: int,
    sequence: int,
    layers: int,
    vocab: int,
    precision: Precision,
    sharding: Sharding,
):
    model = replace(small, layers=layers, vocab=vocab)
    cut = {"workers": 2, "sharding": sharding, "precision": precision, "accumulation": accumulation}
    here = size(model, cores, row(micro_batch=micro_batch, **cut), sequence)
    assert here > 16 * model.params / 2
    assert size(model, cores, row(micro_batch=micro_batch + 1, **cut), sequence) >= here
    assert size(model, cores, row(micro_batch=micro_batch, **cut), 2 * sequence) >= here
    assert size(replace(model, layers=layers + 1), cores, row(micro_batch=micro_batch, **cut), sequence) >= here
    assert size(replace(model, vocab=2 * vocab), cores, row(micro_batch=micro_batch, **cut), sequence) >= here
