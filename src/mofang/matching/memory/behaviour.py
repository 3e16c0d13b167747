"""How a framework uses memory, from ``data/memory.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from mofang.catalog.frameworks import Framework

__all__ = ["Behaviour", "MemoryFigures", "behaviour_of", "memory_figures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """One framework's habits; the data file says what each means."""

    state: Literal["master", "half", "single"]
    sequence_parallel: bool
    fused_gate: bool
    norm_copies: int
    selective: Literal["attention", "operators", "projections", "blocks"]
    logits: float
    logits_compiled: float
    whole_gradients: bool
    gathered_blocks: int
    reduced: float
    fp8_inputs: bool
    live_params: float
    bucket_params: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """What ``data/memory.yaml`` says, under the same names."""

    frameworks: Mapping[str, Mapping[str, Any]]
    state: Mapping[str, tuple[float, float, float]]
    frozen: float
    quantised: float
    backward_block: float
    fragmentation: float
    context: float
    communicator: float


@cache
def memory_figures() -> MemoryFigures:
    """Return the packaged figures; read once."""
    text = resources.files("mofang.matching").joinpath("data/memory.yaml").read_text(encoding="utf-8")
    return MemoryFigures(**yaml.safe_load(text))


def behaviour_of(framework: Framework | None) -> Behaviour:
    """Return how a framework uses memory; None is the ``gpt`` recipe, and one without a row behaves by default."""
    rows = memory_figures().frameworks
    name = "gpt" if framework is None else framework.name
    return Behaviour(**{**rows["default"], **rows.get(name, {})})
