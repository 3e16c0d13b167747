"""Job files of kind ``serve``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mofang.domain.hardware import Precision
from mofang.spec.lengths import LengthsText
from mofang.spec.quantities import PositiveCount, PositiveDuration, WholeCount
from mofang.spec.schema.body import JobFileBody
from mofang.spec.schema.section import Section
from mofang.spec.schema.train import StrategyKeys

__all__ = ["LevelKeys", "ServeFile", "TrafficKeys"]

_LENGTHS = "a number, percentiles {p50: 300, p90: 900, p99: 2000}, or quantiles at even distances [20, 300, 2000]"


class TrafficKeys(Section):
    """Requests. At most one of rate and concurrency says how many; with neither, as many as the service can take."""

    input: LengthsText = Field(description=f"tokens of a prompt: {_LENGTHS}")
    output: LengthsText = Field(description=f"tokens of an answer: {_LENGTHS}")
    rate: float | None = Field(default=None, gt=0, description="requests a second, arriving at random")
    concurrency: PositiveCount | None = Field(default=None, description="requests in flight at any time")
    prefix_hit: float = Field(default=0.0, ge=0, lt=1, description="part of the input found in a prefix cache")


class LevelKeys(Section):
    """What the service must keep."""

    ttft: PositiveDuration | None = Field(default=None, description="time to the first token: 500ms")
    tpot: PositiveDuration | None = Field(default=None, description="time per token after the first: 30ms")
    percentile: float = Field(default=0.95, gt=0, lt=1, description="part of the requests that it holds for: 0.95")


class ServeFile(JobFileBody):
    """Serve a causal language model over HTTP."""

    kind: Literal["serve"] = Field(description="serve a causal language model over HTTP")
    model: str = Field(
        min_length=1,
        description="a folder in Hugging Face format; to plan only, also a name of the catalogue or a config.json",
    )
    traffic: TrafficKeys = Field(description="requests to expect")
    slo: LevelKeys = Field(default_factory=LevelKeys, description="what the service must keep")
    precision: Annotated[Precision, Field(strict=False)] | None = Field(
        default=None, description="of the weights; default: whatever suits the goal best"
    )
    kv_precision: Annotated[Precision, Field(strict=False)] | None = Field(
        default=None, description="of the key-value cache; default: whatever suits the goal best"
    )
    disaggregated: bool | None = Field(
        default=None, description="whether prompts and answers are computed on different devices; default: chosen"
    )
    max_sequence: PositiveCount | None = Field(
        default=None, description="prompt and answer together at most; default: the longest of the traffic"
    )
    port: int = Field(default=0, ge=0, le=65535, description="where it listens; 0: any free port")
    seed: WholeCount = Field(default=0, description="of sampling")
    strategy: StrategyKeys = Field(default_factory=StrategyKeys, description="what you fix yourself")
