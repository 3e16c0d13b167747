"""Job files of the kinds ``finetune`` and ``lora``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mofang.spec.lengths import LengthsText
from mofang.spec.quantities import PositiveCount, Texts
from mofang.spec.schema.body import JobFileBody
from mofang.spec.schema.section import Section
from mofang.spec.schema.train import FinetuneTrain, StrategyKeys

__all__ = ["AdapterKeys", "FinetuneBody", "FinetuneFile", "LoraFile"]

Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class FinetuneData(Section):
    """Documents to train on."""

    text: Texts | None = Field(
        default=None,
        description='files, globs or folders: .jsonl files with {"text": ...} or {"prompt": ..., "response": ...} in '
        "each line (only the response is learned), any other file is one document; left out: only to plan with",
    )
    tokenizer: str | None = Field(
        default=None, description="bytes, or the path of a tokenizer.json; default: the one in the model's folder"
    )
    validation: float = Field(default=0.02, ge=0, le=0.5, description="part of the text that is kept for validation")
    lengths: LengthsText | None = Field(
        default=None,
        description="tokens of a document: a number, percentiles {p50: 300, p90: 900, p100: 4000}, or quantiles at "
        "even distances [20, 300, 4000]; default: counted where the text is small, else every document fills its "
        "sequence",
    )


class AdapterKeys(Section):
    """Low-rank adapters (LoRA, arXiv:2106.09685)."""

    rank: PositiveCount = Field(default=16, description="inner width of each adapter")
    alpha: float | None = Field(
        default=None, gt=0, description="scale: what is added is alpha / rank B A; default: 2 rank"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="part of an adapter's inputs left out in training")
    targets: list[Target] | None = Field(
        default=None, min_length=1, description="the products that get an adapter; default: all seven"
    )


class FinetuneBody(JobFileBody):
    """What both kinds say."""

    model: str = Field(
        min_length=1,
        description="a folder in Hugging Face format (config.json, *.safetensors, tokenizer.json); to plan only, also "
        "a name of the catalogue or a config.json",
    )
    data: FinetuneData = Field(default_factory=FinetuneData, description="documents to train on")
    train: FinetuneTrain = Field(description="how long and how to train")
    adapter: AdapterKeys | None = Field(default=None, description="of lora and qlora")
    strategy: StrategyKeys = Field(default_factory=StrategyKeys, description="what you fix yourself")


class FinetuneFile(FinetuneBody):
    """Train a published language model further."""

    kind: Literal["finetune"] = Field(description="train a published language model further")
    method: Literal["any", "full", "lora", "qlora"] = Field(
        default="any", description="which weights are trained; any: whatever suits the goal best"
    )


class LoraFile(FinetuneBody):
    """Train low-rank adapters beside a published language model: finetune with method lora."""

    kind: Literal["lora"] = Field(description="train low-rank adapters beside a published language model")
