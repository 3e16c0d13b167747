"""How a framework spends time beside its operators: overlap, fusion, number formats, schedules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from mofang.catalog.frameworks import Framework

__all__ = ["Profile", "profile_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One framework's habits in time; ``data/training.yaml`` says what each means."""

    fused: Literal["always", "compiled", "never"]
    attention: Mapping[str, float]
    weight_casts: bool
    gradient_bytes: float | None
    gather_bytes: float | None
    sequence_parallel: bool
    tensor_hidden: tuple[float, float]
    context_hidden: float
    expert_hidden: float
    pipeline_hidden: float
    data_hidden: float
    contention: float
    rails: float
    reduce_each: bool
    selective: Mapping[str, float]
    expert_launch_s: float
    imbalance: float
    jitter: float

    def fuses(self, *, compiled: bool) -> bool:
        """Whether elementwise operators are fused."""
        return self.fused == "always" or (compiled and self.fused == "compiled")


@cache
def _rows() -> Mapping[str, Mapping[str, Any]]:
    text = resources.files("mofang.matching").joinpath("data/training.yaml").read_text(encoding="utf-8")
    rows: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)
    return rows


@cache
def _profile(name: str) -> Profile:
    rows = _rows()
    return Profile(**{**rows["default"], **rows.get(name, {})})


def profile_of(framework: Framework | None) -> Profile:
    """Return how a framework spends time; None is the ``gpt`` recipe, and one without a row behaves by default."""
    return _profile("gpt" if framework is None else framework.name)
