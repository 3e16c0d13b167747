"""Job files of kind ``pretrain``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from mofang.spec.quantities import Name, PositiveCount, Texts
from mofang.spec.schema.body import JobFileBody
from mofang.spec.schema.section import Section, by_type
from mofang.spec.schema.train import PretrainTrain, StrategyKeys

__all__ = ["InlineModel", "PretrainFile"]


class InlineModel(Section):
    """A decoder-only transformer written out: RMSNorm, rotary positions, SwiGLU, grouped-query attention."""

    layers: PositiveCount = Field(description="number of blocks")
    hidden: PositiveCount = Field(description="width of the residual stream")
    heads: PositiveCount = Field(description="query heads")
    kv_heads: PositiveCount | None = Field(default=None, description="key and value heads; default: heads")
    ffn: PositiveCount | None = Field(
        default=None, description="feed-forward width; default: 8/3 hidden, rounded up to 8"
    )
    vocab: PositiveCount | None = Field(default=None, description="default: the tokenizer's, 256 for bytes")
    head_dim: PositiveCount | None = Field(default=None, description="width of one head; default: hidden / heads")
    max_sequence: PositiveCount | None = Field(default=None, description="longest sequence; default: train.sequence")
    tied_embeddings: bool = Field(default=False, description="whether the head shares the input table")
    name: Name | None = Field(default=None, description="what reports call it")


class Data(Section):
    """Text to train on."""

    text: Texts = Field(description="files, globs or folders, or python-stdlib (Python's own source code)")
    tokenizer: str = Field(default="bytes", description="bytes, or the path of a tokenizer.json")
    validation: float = Field(default=0.02, gt=0, le=0.5, description="part of the text that is kept for validation")


class PretrainFile(JobFileBody):
    """Train a decoder-only model on text, from scratch."""

    kind: Literal["pretrain"] = Field(description="train a model from scratch")
    model: Annotated[Annotated[str, Tag("(text)")] | Annotated[InlineModel, Tag("(mapping)")], by_type(InlineModel)] = (
        Field(description="a name of the catalogue, the path of a config.json, or the sizes themselves")
    )
    data: Data = Field(description="text to train on")
    train: PretrainTrain = Field(description="how long and how to train")
    strategy: StrategyKeys = Field(default_factory=StrategyKeys, description="what you fix yourself")
