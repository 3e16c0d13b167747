"""How fast one worker of a pool is, and what its peak is."""

from __future__ import annotations

import numpy as np

from mofang.domain.hardware import Accelerator, Pool, Precision
from mofang.domain.rates import HostRates, Operator, OperatorRate, Phase
from mofang.matching.coefficients import coefficients
from mofang.matching.curves import curves_of
from mofang.matching.described import DescribedSpeed
from mofang.matching.speed import CoreSpeed, Speed, measured_speed

__all__ = ["is_measured", "measured_device", "peak_flops", "speed_of", "supports"]


def measured_device(pool: Pool) -> str | None:
    """Return the name under which the pool's rates know its devices; None where nothing was measured."""
    if pool.rates is None:
        return None
    known = {name.casefold() for name in (pool.accelerator.name, *pool.accelerator.aliases)}
    return next((rate.device for rate in pool.rates.operators if rate.device.casefold() in known), None)


def is_measured(pool: Pool) -> bool:
    """Whether the pool's own operators were timed."""
    return measured_device(pool) is not None


def supports(pool: Pool, precision: Precision) -> bool:
    """Whether the devices compute in this precision; cores do in both that the recipe knows."""
    if pool.is_cpu:
        return precision in {Precision.FP32, Precision.BF16}
    return precision in pool.accelerator.peak_flops


def speed_of(
    pool: Pool,
    precision: Precision,
    *,
    workers: int,
    threads: int,
    fused: bool,
    fused_attention: bool = True,
    slower_attention: float = 1.0,
) -> Speed:
    """Return the speed of each of ``workers`` workers on a node; where devices are cores each has ``threads``."""
    device = measured_device(pool)
    if pool.rates is not None and device is not None:
        found = measured_speed(pool.rates, device=device, precision=precision, workers=workers, threads=threads)
        if found is not None:
            return found
    if pool.is_cpu:
        return _unprobed(pool, precision, threads)
    curves = curves_of(pool.accelerator)
    return DescribedSpeed(
        curves=curves,
        precision=precision,
        dispatch_s=coefficients().dispatch_s["compiled" if fused else "eager"],
        fused=fused,
        fused_attention=fused_attention,
        slower_attention=slower_attention,
        sustained=coefficients().sustained * (1.0 if curves.known["matmul"] else _powered(pool.accelerator)),
    )


def _powered(chip: Accelerator) -> float:
    """Return the part of its relatives' rate that a chip's power lets it hold."""
    known, peak = coefficients().power, chip.peak_flops.get(Precision.BF16)
    usual = known.get(chip.architecture.casefold())
    if usual is None or not peak or not chip.tdp_w:
        return 1.0
    part: float = min(1.0, chip.tdp_w / (peak / 1e12) / usual) ** known["exponent"]
    return part


def _unprobed(pool: Pool, precision: Precision, threads: int) -> CoreSpeed:
    core = coefficients().unprobed_core
    per_core = pool.accelerator.memory_bandwidth or core["bandwidth"]
    return CoreSpeed(
        flops=peak_flops(pool, precision) * threads * core["efficiency"],
        bandwidth=per_core * threads,
        element=precision.bytes,
        dispatch_s=coefficients().dispatch_s["eager"],
    )


def peak_flops(pool: Pool, precision: Precision) -> float:
    """Return the peak FLOP/s of one device; of a probed core, the fastest product measured on it. 0: it has none."""
    if not pool.is_cpu:
        return pool.accelerator.peak_flops.get(precision, 0.0)
    measured = _fastest_core(pool.rates, precision) if pool.rates is not None else 0.0
    return measured or pool.accelerator.peak_flops.get(precision) or coefficients().unprobed_core["flops"]


def _fastest_core(rates: HostRates, precision: Precision) -> float:
    return max(
        (_product_flops(rate) / rate.threads for rate in rates.operators if _is_product(rate, precision)), default=0.0
    )


def _is_product(rate: OperatorRate, precision: Precision) -> bool:
    return (
        rate.device == "cpu"
        and rate.operator is Operator.LINEAR
        and rate.phase is Phase.FORWARD
        and rate.dtype == precision.value
    )


def _product_flops(rate: OperatorRate) -> float:
    return 2.0 * float(np.prod(rate.shape, dtype=np.float64)) / rate.seconds
