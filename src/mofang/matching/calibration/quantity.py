"""What a training measurement says about speed, as tokens/s a device, whichever way its source states it.

Sources count FLOP in different ways, so tokens/s are compared. Where a source states only FLOP/s or MFU, its own count
of FLOP a token turns them into tokens/s: the attention term whole (llm-foundry; Megatron-LM and NeMo, arXiv:2104.04473,
equation 3) or halved by the causal mask (Megatron Bridge, and what states nothing); activations computed again counted
(hardware FLOP) or not; adapters at 4 of 6 of the products (no gradients of frozen weights).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mofang.catalog.knowledge import Catalog
from mofang.domain.measurement import FlopConvention, TrainingMeasurement
from mofang.domain.model import ModelArchitecture
from mofang.domain.strategy import Method, Recompute

__all__ = ["Quantity", "Speed", "flops_per_token", "speed_of"]


class Quantity(StrEnum):
    """What a source states of the speed, best first."""

    TOKENS = "tokens/s"
    STEP_TIME = "step time"
    FLOPS = "FLOP/s"
    MFU = "MFU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """A measured speed, and from what it follows."""

    tokens_per_s_per_device: float
    quantity: Quantity


def speed_of(row: TrainingMeasurement, model: ModelArchitecture, sequence: int, catalog: Catalog) -> Speed | None:
    """Return the measured tokens/s a device; None where the source states no speed that can be turned into them."""
    tokens = row.tokens_per_s_per_device
    if tokens:
        return Speed(tokens_per_s_per_device=tokens, quantity=Quantity.TOKENS)
    if row.step_time_s and row.global_batch and row.num_devices:
        tokens = row.global_batch * sequence / row.step_time_s / row.num_devices
        return Speed(tokens_per_s_per_device=tokens, quantity=Quantity.STEP_TIME)
    counted = flops_per_token(row, model, sequence)
    if row.flops_per_device:
        return Speed(tokens_per_s_per_device=row.flops_per_device / counted, quantity=Quantity.FLOPS)
    return _from_utilisation(row, model, sequence, catalog)


def _from_utilisation(
    row: TrainingMeasurement, model: ModelArchitecture, sequence: int, catalog: Catalog
) -> Speed | None:
    used = row.mfu or row.hfu
    chip = catalog.accelerator_table.find(row.accelerator)
    peak = 0.0 if chip is None or row.precision is None else chip.peak_flops.get(row.precision, 0.0)
    if not used or not peak:
        return None
    counted = flops_per_token(row, model, sequence, hardware=not row.mfu)
    return Speed(tokens_per_s_per_device=used * peak / counted, quantity=Quantity.MFU)


def flops_per_token(
    row: TrainingMeasurement, model: ModelArchitecture, sequence: int, *, hardware: bool | None = None
) -> float:
    """Return the FLOP that the source counts for one token; ``hardware`` overrides its stated convention."""
    products = 6.0 * model.matmul_params
    attention = model.train_flops_per_token(sequence) - products
    if _counts_whole_attention(row):
        attention *= 2.0
    total = products + attention
    if row.method is not Method.FULL:
        total *= 4.0 / 6.0
    again = row.flop_convention is FlopConvention.HARDWARE if hardware is None else hardware
    # A full recomputation adds one forward pass, a third of forward and backward together.
    return total * 4.0 / 3.0 if again and row.recompute in {None, Recompute.FULL} else total


def _counts_whole_attention(row: TrainingMeasurement) -> bool:
    if row.flop_convention in {FlopConvention.FULL_ATTENTION, FlopConvention.HARDWARE}:
        return True
    megatron = row.framework == "megatron" and "bridge" not in row.framework_text.casefold()
    return megatron and row.flop_convention is FlopConvention.MODEL
