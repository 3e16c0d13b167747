"""All-reduce, all-gather and reduce-scatter over a process group: latency and bandwidth by least squares."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

from mofang.backends.local.probe.timing import Timer
from mofang.domain.rates import Collective, CollectiveRate

__all__ = ["fit_line", "measure_collectives"]

_ELEMENTS = (1024, 65536, 1048576, 4194304)  # fp32, of the whole tensor


# torch 2.13 renamed these two; older releases only know the former names.
_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def _call(operation: Collective, elements: int, device: str) -> Callable[[], object]:
    whole = torch.ones(elements, device=device)
    part = torch.ones(elements // dist.get_world_size(), device=device)
    if operation is Collective.ALL_REDUCE:
        return lambda: dist.all_reduce(whole)
    if operation is Collective.ALL_GATHER:
        return lambda: _gather(whole, part)
    return lambda: _scatter(part, whole)


def fit_line(sizes: list[float], seconds: list[float]) -> tuple[float, float]:
    """Return (latency, bandwidth) of seconds = latency + size / bandwidth.

    The latency is the smallest transfer's time, the bandwidth that of all sizes together weighted by relative error.
    """
    latency = seconds[0]
    weights = [1.0 / value**2 for value in seconds[1:]]
    moved = [max(0.0, value - latency) for value in seconds[1:]]
    over = sum(w * size * size for w, size in zip(weights, sizes[1:], strict=True))
    under = sum(w * size * value for w, size, value in zip(weights, sizes[1:], moved, strict=True))
    return latency, over / max(under, 1e-30)


def measure_collectives(timer: Timer, *, name: str, device: str, hosts: int = 1) -> list[CollectiveRate]:
    """Time every collective over the default process group."""
    world = dist.get_world_size()
    rates = []
    for operation in Collective:
        sizes = [count - count % world for count in _ELEMENTS]
        seconds = [timer.measure_together(_call(operation, count, device)).seconds for count in sizes]
        latency, bandwidth = fit_line([4.0 * count for count in sizes], seconds)
        rates.append(
            CollectiveRate(
                device=name, operation=operation, workers=world, latency_s=latency, bandwidth=bandwidth, hosts=hosts
            )
        )
    return rates
