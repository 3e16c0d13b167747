"""What serving engines do by default: how much memory they take, how many requests and tokens an iteration holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

__all__ = ["EngineSettings", "engine_settings", "serving_data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Defaults of one engine, as ``data/engines.yaml`` says with its sources."""

    memory_fraction: float  # of device memory, weights included
    chunk: int  # tokens an iteration may hold
    max_requests: int
    reserves_output: bool  # admits a request only where its whole answer has room
    iteration_s: float  # host and scheduler, an iteration
    sequence_s: float  # and for each sequence in it
    narrow_cache: bool = False  # caches in 8 bits where weights are in 8 or fewer


@cache
def serving_data() -> Mapping[str, Any]:
    """Return the packaged engine settings; read once."""
    text = resources.files("mofang.matching.serving").joinpath("data/engines.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Any] = yaml.safe_load(text)
    return found


def engine_settings(framework: str) -> EngineSettings:
    """Return the settings of a framework of the catalogue, or those of an unknown engine."""
    known = serving_data()["engines"]
    return EngineSettings(**{**known["default"], **known.get(framework, {})})
