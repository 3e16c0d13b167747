from collections.abc import Callable
from dataclasses import replace

import pytest

from mofang.domain.hardware import CPU, Accelerator, Link, Pool, Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.rates import Collective, CollectiveRate, HostRates, Operator, OperatorRate, Phase
from mofang.domain.scenario import Pretrain, Resources, Scenario, StrategyChoice, TextData
from mofang.units import Range


@pytest.fixture
def llama_7b() -> ModelArchitecture:
    return ModelArchitecture(
        name="llama-2-7b",
        layers=32,
        hidden=4096,
        heads=32,
        kv_heads=32,
        ffn=11008,
        vocab=32000,
        head_dim=128,
        max_sequence=4096,
    )


@pytest.fixture
def small() -> ModelArchitecture:
    return ModelArchitecture(
        name="small", layers=4, hidden=128, heads=4, kv_heads=2, ffn=384, vocab=256, head_dim=32, max_sequence=256
    )


@pytest.fixture
def h100() -> Pool:
    chip = Accelerator(
        name="NVIDIA H100-SXM-80GB",
        vendor="NVIDIA",
        aliases=("H100",),
        memory_bytes=80 * 2**30,
        memory_bandwidth=3.35e12,
        peak_flops={Precision.BF16: 989e12, Precision.TF32: 494e12, Precision.FP32: 67e12},
        tdp_w=700.0,
    )
    return Pool(
        cluster="",
        accelerator=chip,
        devices_per_node=8,
        counts=Range(1, 64),
        intra=Link(latency_s=3e-6, bandwidth=450e9),
        inter=Link(latency_s=14e-6, bandwidth=50e9),
        node_memory_bytes=2 * 10**12,
    )


_MOVERS = (Operator.NORM, Operator.ROPE, Operator.GATED, Operator.ADD, Operator.CROSS_ENTROPY)


def rates() -> HostRates:
    """Return rates of an invented host: 50 GFLOP/s a core at every size, 10 GB/s, 5 us a launch."""
    rows = []
    for workers, threads in ((1, 1), (1, 2), (2, 1)):
        for dtype, slower in (("fp32", 1.0), ("bf16", 8.0)):
            speed = 50e9 * threads / slower

            def row(
                operator: Operator,
                phase: Phase,
                shape: tuple[int, ...],
                seconds: float,
                setting: tuple[int, int, str] = (workers, threads, dtype),
            ) -> OperatorRate:
                return OperatorRate(
                    device=CPU,
                    dtype=setting[2],
                    workers=setting[0],
                    threads=setting[1],
                    operator=operator,
                    phase=phase,
                    shape=shape,
                    seconds=seconds,
                )

            for size in (128, 512, 2048):
                flops = 2.0 * size**3
                rows.append(row(Operator.LINEAR, Phase.FORWARD, (size,) * 3, flops / speed))
                rows.append(row(Operator.LINEAR, Phase.BACKWARD, (size,) * 3, 2 * flops / speed))
                rows.append(row(Operator.ATTENTION, Phase.FORWARD, (8, size, 64), 2.0 * 8 * 64 * size**2 / speed))
                rows.append(row(Operator.ATTENTION, Phase.BACKWARD, (8, size, 64), 5.0 * 8 * 64 * size**2 / speed))
                both = (Phase.FORWARD, Phase.BACKWARD)
                moved = [(operator, phase, (size, 512)) for operator in _MOVERS for phase in both]
                moved += [(Operator.EMBEDDING, phase, (size, 256, 128)) for phase in both]
                moved += [(operator, Phase.UPDATE, (size * 512,)) for operator in (Operator.ADAMW, Operator.CLIP)]
                rows.extend(
                    row(operator, phase, shape, size * 512 * 12 / 10e9 + 5e-6) for operator, phase, shape in moved
                )
    collectives = tuple(
        CollectiveRate(device=CPU, operation=operation, workers=2, latency_s=3e-4, bandwidth=1e9)
        for operation in Collective
    )
    return HostRates(
        host="here",
        measured_at=0.0,
        torch_version="2",
        operators=tuple(rows),
        collectives=collectives,
        dispatch_s=5e-6,
        worker_memory_bytes=240_000_000,
    )


@pytest.fixture
def cores() -> Pool:
    chip = Accelerator(name=CPU, vendor="", memory_bytes=0, memory_bandwidth=0.0, peak_flops={})
    link = Link(latency_s=1e-5, bandwidth=1e9)
    return Pool(
        cluster="local",
        accelerator=chip,
        devices_per_node=2,
        counts=Range(1, 2),
        intra=link,
        inter=link,
        node_memory_bytes=8 * 10**9,
        rates=rates(),
    )


@pytest.fixture
def pretrain() -> Callable[..., Scenario]:
    def build(model: ModelArchitecture, **keys: object) -> Scenario:
        # The recipe alone has few candidates, all of which can be listed; None leaves the framework open.
        framework = keys.pop("framework", "gpt")
        choice = replace(keys.pop("strategy", StrategyChoice()), framework=framework)
        resources = keys.pop("resources", Resources())
        outer = {name: keys.pop(name) for name in ("goal", "limits") if name in keys}
        task = Pretrain(
            model=model,
            data=TextData(paths=("text",)),
            sequence=int(keys.pop("sequence", min(4096, model.max_sequence))),
            global_batch=int(keys.pop("global_batch", 64)),
            steps=100,
            strategy=choice,
        )
        return Scenario(name="test", task=replace(task, **keys), resources=resources, **outer)

    return build
