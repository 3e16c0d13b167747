"""The packaged coefficients of the estimate, with the sources of their figures in the file itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from mofang.domain.hardware import Accelerator

__all__ = ["Coefficients", "MatmulEfficiency", "coefficients"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulEfficiency:
    """Fraction of peak that large products reach, the rows at which half of it is reached; ``known``: from timings."""

    large: float
    half_rows: float
    known: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What ``data/coefficients.yaml`` says, under the same names."""

    matmul: Mapping[str, Any]
    attention: Mapping[str, float]
    memory_bandwidth: float
    dispatch_s: Mapping[str, float]
    link_efficiency: float
    small_operators: Mapping[str, int]
    overlap: Mapping[str, float]
    unprobed_core: Mapping[str, float]
    compile_s: float
    framework_bytes: Mapping[str, float]
    fragmentation: Mapping[str, float]
    usable_memory: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]

    def matmul_efficiency(self, accelerator: Accelerator) -> MatmulEfficiency:
        """Return the efficiency of the accelerator's family, or the cautious default."""
        for family in self.matmul["families"]:
            if any(part.lower() in accelerator.name.lower() for part in family["match"]):
                return _efficiency(family)
        return _efficiency(self.matmul["default"])


def _efficiency(row: Mapping[str, Any]) -> MatmulEfficiency:
    return MatmulEfficiency(large=row["large"], half_rows=row["half_rows"], known=row["known"])


@cache
def coefficients() -> Coefficients:
    """Return the packaged coefficients; read once."""
    text = resources.files("mofang.matching").joinpath("data/coefficients.yaml").read_text(encoding="utf-8")
    return Coefficients(**yaml.safe_load(text))
