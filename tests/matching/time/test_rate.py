"""How many candidates a second: a loose bound, since other programs share the machine."""

import time
from collections.abc import Callable
from itertools import product

import numpy as np

from mofang.catalog.frameworks import frameworks
from mofang.domain.hardware import Pool
from mofang.matching.candidates import Candidates
from mofang.matching.estimate import estimate
from mofang.matching.work import Work

BATCH = 2048


def layouts(candidates: Callable[..., Candidates]) -> Candidates:
    """Return some 100,000 layouts of up to 16,384 devices."""
    axes = ((1, 2, 4, 8), (1, 2, 3, 6, 7, 9, 14, 18), (1, 2, 4), (1, 2, 7), (1, 2, 4), (0, 1, 2), (1, 2, 4))
    dp = tuple(1 << power for power in range(10))
    rows = np.array(list(product(*axes, dp)))
    tp, pp, cp, vpp, micro_batch, recompute, sharding, dp_column = rows.T
    devices = tp * pp * cp * dp_column
    found = candidates(
        nodes=np.maximum(devices // 8, 1), devices=devices, tp=tp, pp=pp, cp=cp, vpp=vpp, dp=dp_column,
        micro_batch=micro_batch, accumulation=np.maximum(BATCH // (dp_column * micro_batch), 1),
    )  # fmt: skip
    keep = (devices <= 16384) & ((devices % 8 == 0) | (devices < 8)) & (BATCH % (dp_column * micro_batch) == 0)
    columns = {name: getattr(found, name) for name in Candidates.__dataclass_fields__}
    return Candidates(**columns | {"recompute": recompute, "sharding": sharding}).where(keep)


def test_hundreds_of_thousands_a_second(
    work: Callable[..., Work],
    pool: Callable[[str], Pool],
    candidates: Callable[..., Candidates],
    record_property: Callable[[str, object], None],
):
    task, machine, found = work("llama-3.1-405b", 8192, BATCH), pool("H100:16384"), layouts(candidates)
    megatron = frameworks()["megatron"]
    seconds = []
    for _ in range(3):
        started = time.process_time()
        times = estimate(task, machine, found, megatron).step_time
        seconds.append(time.process_time() - started)
    rate = len(found) / min(seconds)
    record_property("nanoseconds a candidate", 1e9 / rate)
    assert np.isfinite(times).all()
    assert rate > 300_000
