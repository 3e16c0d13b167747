"""Every way to cut and store one replica of a model on a pool with an engine: what can be deployed at all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mofang.catalog.frameworks import Framework
from mofang.domain.hardware import Accelerator, Pool, Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Serve
from mofang.matching.coefficients import coefficients
from mofang.matching.options import Option
from mofang.matching.serving.deployments import PRECISIONS, Deployments
from mofang.matching.serving.settings import EngineSettings, engine_settings
from mofang.matching.workers import peak_flops

__all__ = ["Space", "cache_formats", "cuts", "device_pool", "most_devices", "space_of", "weight_formats"]

_OPEN_END = 1024  # devices looked at where a range has no end
_STAGES = (1, 2, 4, 8)
_EIGHT_BITS = (Precision.FP8, Precision.INT8)  # the first that the chip has: fp8 keeps more of a model's range


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The deployments of one option with one framework; ``pool`` has whole devices, processor cores joined to one."""

    option: Option
    framework: Framework
    settings: EngineSettings
    pool: Pool
    threads: int
    cut: Deployments

    @property
    def most(self) -> int:
        """Devices that the option has at most."""
        return most_devices(self.option) // self.threads


def most_devices(option: Option) -> int:
    """Return how many devices an option has at most; a range without end is looked at up to a limit."""
    most = option.counts.maximum
    return max(option.counts.minimum, _OPEN_END) if most is None else most


def space_of(task: Serve, option: Option, framework: Framework) -> Space:
    """Return the deployments that the framework and the chip can hold in form; memory is checked later."""
    pool, threads = device_pool(option)
    most = most_devices(option) // threads
    columns = [
        (tp, pp, dp, ep, PRECISIONS.index(weights), PRECISIONS.index(kv))
        for (tp, pp, dp, ep), weights in itertools.product(
            cuts(task, pool, framework, most), weight_formats(task, pool, framework)
        )
        for kv in cache_formats(task, pool, weights)
    ]
    table = np.array(columns, dtype=np.int64).reshape(-1, 6)
    cut = Deployments(
        tp=table[:, 0], pp=table[:, 1], dp=table[:, 2], ep=table[:, 3], weights=table[:, 4], kv=table[:, 5]
    )
    return Space(
        option=option,
        framework=framework,
        settings=engine_settings(framework.name),
        pool=pool,
        threads=threads,
        cut=cut,
    )


def device_pool(option: Option) -> tuple[Pool, int]:
    """Return the pool as an engine sees it, and how many of its devices make one: all cores of a node serve together.

    Cores that nobody probed compute at the stated rate of a cautious core.
    """
    pool = option.pool
    if not pool.is_cpu:
        return pool, 1
    threads = min(pool.devices_per_node, most_devices(option))
    chip = pool.accelerator
    core = coefficients().unprobed_core
    peaks = {p: peak_flops(pool, p) * threads for p in (Precision.FP32, Precision.BF16)}
    whole = Accelerator(
        name=chip.name,
        vendor=chip.vendor,
        memory_bytes=pool.node_memory_bytes,
        memory_bandwidth=(chip.memory_bandwidth or core["bandwidth"]) * threads,
        peak_flops=peaks,
        source=chip.source,
    )
    return replace(pool, accelerator=whole, devices_per_node=1), threads


def weight_formats(task: Serve, pool: Pool, framework: Framework) -> tuple[Precision, ...]:
    """Return the formats of weights to try: the user's; else 16 bits, and what the chip computes in with fewer."""
    asked = task.precision or task.strategy.precision
    if asked is not None:
        return (asked,) if asked in framework.precisions else ()
    known = pool.accelerator.peak_flops
    plain = next((p for p in (Precision.BF16, Precision.FP16, Precision.FP32) if p in known), Precision.BF16)
    narrow = next((p for p in _EIGHT_BITS if p in known and p in framework.precisions), plain)
    found = dict.fromkeys((plain, narrow, *((Precision.FP4,) if Precision.FP4 in known else ())))
    return tuple(p for p in found if p in framework.precisions)


def cache_formats(task: Serve, pool: Pool, weights: Precision) -> tuple[Precision, ...]:
    """Return the formats of the cache to try: the user's; else 16 bits, and 8 where weights are narrow too."""
    if task.kv_precision is not None:
        return (task.kv_precision,)
    wide = weights if weights.bytes >= 2 else Precision.BF16
    narrow = weights.bytes <= 1 and Precision.FP8 in pool.accelerator.peak_flops
    return (wide, Precision.FP8) if narrow else (wide,)


def cuts(task: Serve, pool: Pool, framework: Framework, most: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (tp, pp, attention dp, ep) that divide the model: tensor parallelism stays inside a node."""
    model, choice = task.model, task.strategy
    node = pool.devices_per_node
    widths = [1 << power for power in range(11)] if "tp" in framework.cuts else [1]
    stages = _STAGES if "pp" in framework.cuts else (1,)
    for tp, pp in itertools.product(widths, stages):
        if tp > node or tp * pp > most or pp > model.layers or not divides(model, tp):
            continue
        for ep in _expert_ways(model, framework, tp):
            if _chosen(choice.tp, tp) and _chosen(choice.pp, pp) and _chosen(choice.ep, ep):
                yield tp, pp, 1, ep
    if model.moe is None or "attention-dp" not in framework.cuts or choice.tp not in {None, 1}:
        return
    for dp in (2, 4, 8, 16, 32, 64):
        fits = dp <= most and model.moe.num_experts % dp == 0 and (dp <= node or dp % node == 0)
        if fits and _chosen(choice.ep, dp) and _chosen(choice.dp, dp) and choice.pp in {None, 1}:
            yield 1, 1, dp, dp


def _chosen(fixed: int | None, value: int) -> bool:
    return fixed is None or fixed == value


def _expert_ways(model: ModelArchitecture, framework: Framework, tp: int) -> tuple[int, ...]:
    """Return over how many of tp ranks whole experts may lie: none of them, or all."""
    moe = model.moe
    if moe is None or tp == 1:
        return (1,)
    ways = (1,) if moe.expert_ffn % tp == 0 else ()
    return (*ways, tp) if "ep" in framework.cuts and moe.num_experts % tp == 0 else ways


def divides(model: ModelArchitecture, tp: int) -> bool:
    """Whether heads, key-value heads (copied where they are fewer) and the feed-forward can be cut ``tp`` ways."""
    heads = model.heads % tp == 0
    kept = model.latent is not None or model.kv_heads % tp == 0 or tp % model.kv_heads == 0
    return heads and kept and model.ffn % tp == 0
