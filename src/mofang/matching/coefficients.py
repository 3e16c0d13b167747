"""The packaged coefficients of the estimate, with the sources of their figures in the file itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

__all__ = ["Coefficients", "coefficients"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What ``data/coefficients.yaml`` says, under the same names."""

    sustained: float
    power: Mapping[str, float]
    attention_backward: float
    dispatch_s: Mapping[str, float]
    link_efficiency: float
    small_operators: Mapping[str, int]
    host: Mapping[str, float]
    unprobed_core: Mapping[str, float]
    compile_s: float
    framework_bytes: Mapping[str, float]
    fragmentation: Mapping[str, float]
    usable_memory: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]


@cache
def coefficients() -> Coefficients:
    """Return the packaged coefficients; read once."""
    text = resources.files("mofang.matching").joinpath("data/coefficients.yaml").read_text(encoding="utf-8")
    return Coefficients(**yaml.safe_load(text))
