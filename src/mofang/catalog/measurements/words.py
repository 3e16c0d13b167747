"""What sources write for precision, recomputation, sharding, method and tokens, in the words of Mofang."""

from __future__ import annotations

import re
from functools import cache

from mofang.domain.hardware import Precision
from mofang.domain.measurement import TokenCount
from mofang.domain.strategy import Method, Recompute, Sharding

__all__ = ["method_of", "precision_of", "recompute_of", "sharding_of", "token_count_of", "yes_or_no"]

# First match counts. Integers of four bits take FP4: the same bytes, and no format of Mofang's is nearer.
_PRECISIONS = (
    (re.compile(r"fp4|int4|w4a|4[- ]?bit|awq|gptq"), Precision.FP4),
    (re.compile(r"fp8|float8|f8e4|e4m3|mxfp6"), Precision.FP8),
    (re.compile(r"int8|w8a8|8[- ]?bit"), Precision.INT8),
    (re.compile(r"bf16|bfloat16"), Precision.BF16),
    (re.compile(r"fp16|float16|\bamp\b|\bhalf\b"), Precision.FP16),
    (re.compile(r"tf32"), Precision.TF32),
    (re.compile(r"fp32|float32|\bfloat\b"), Precision.FP32),
    (re.compile(r"fp64|float64|double"), Precision.FP64),
)
_SHARDINGS = (
    (re.compile(r"zero-?_?0|^0$|^none|^no$"), Sharding.DDP),
    (re.compile(r"fsdp|zero-?_?(stage)?_?3|^3$|full_shard"), Sharding.FSDP),
    (re.compile(r"zero-?_?(stage)?_?2|^2$|shard_grad_op"), Sharding.ZERO2),
    (re.compile(r"zero-?_?(stage)?_?1|^1$|distributed opt"), Sharding.ZERO1),
    (re.compile(r"ddp|data ?parallel|replicat"), Sharding.DDP),
)


@cache
def precision_of(written: str) -> Precision | None:
    """Return the format that matrix products run in; None where nothing is stated."""
    low = written.casefold()
    return next((precision for pattern, precision in _PRECISIONS if pattern.search(low)), None)


@cache
def recompute_of(written: str) -> Recompute | None:
    """Return what is computed again; a part of it, whichever, is ``SELECTIVE``."""
    low = written.casefold()
    if not low:
        return None
    if low in {"none", "no", "false", "off", "0"}:
        return Recompute.NONE
    return Recompute.FULL if re.match(r"full|yes|true|on\b|1$|all\b", low) else Recompute.SELECTIVE


@cache
def sharding_of(written: str) -> Sharding | None:
    """Return how data-parallel ranks hold the state; None where nothing known is stated. HSDP counts as FSDP."""
    low = written.casefold().replace("hsdp", "fsdp")
    return next((sharding for pattern, sharding in _SHARDINGS if pattern.search(low)), None)


@cache
def method_of(task: str) -> Method:
    """Return which weights a task trains; parameter-efficient tuning without a name is taken for LoRA."""
    low = task.casefold()
    if "qlora" in low:
        return Method.QLORA
    return Method.LORA if "lora" in low or "peft" in low else Method.FULL


@cache
def token_count_of(written: str) -> TokenCount:
    """Return which tokens a throughput counts. A vendor's bare "token throughput" is taken as output tokens."""
    low = written.casefold()
    if "output" in low:
        return TokenCount.OUTPUT
    return TokenCount.TOTAL if low.startswith(("total", "input")) else TokenCount.UNSTATED


def yes_or_no(written: str) -> bool | None:
    """Return the answer; None where there is none."""
    low = written.casefold()
    if low.startswith(("yes", "true")):
        return True
    return False if low.startswith(("no", "false")) else None
