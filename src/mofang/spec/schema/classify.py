"""Job files of kind ``classify``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from mofang.spec.quantities import Name, PositiveCount
from mofang.spec.schema.body import JobFileBody
from mofang.spec.schema.section import Section, by_type
from mofang.spec.schema.train import ClassifyTrain, StrategyKeys

__all__ = ["PRESETS", "ClassifyFile", "ImageKeys", "VisionKeys"]

# arXiv:2010.11929, table 1; the two small ones arXiv:2012.12877, table 1: layers, hidden, heads, feed-forward
PRESETS = {
    "vit-tiny": (12, 192, 3, 768),
    "vit-small": (12, 384, 6, 1536),
    "vit-base": (12, 768, 12, 3072),
    "vit-large": (24, 1024, 16, 4096),
    "vit-huge": (32, 1280, 16, 5120),
}


class VisionKeys(Section):
    """A vision transformer (arXiv:2010.11929): a preset, the sizes themselves, or a preset with other sizes."""

    preset: Literal["vit-tiny", "vit-small", "vit-base", "vit-large", "vit-huge"] | None = Field(
        default=None, description="sizes to start from"
    )
    layers: PositiveCount | None = Field(default=None, description="number of blocks")
    hidden: PositiveCount | None = Field(default=None, description="width of the residual stream")
    heads: PositiveCount | None = Field(default=None, description="attention heads")
    ffn: PositiveCount | None = Field(default=None, description="feed-forward width; default: 4 hidden")
    image_size: PositiveCount | None = Field(
        default=None, description="pixels on a side, to which images are scaled; default: that of an .npz, else 224"
    )
    patch_size: PositiveCount | None = Field(
        default=None, description="pixels on a side of a patch; default: 16, or about an eighth of a small image"
    )
    name: Name | None = Field(default=None, description="what reports call it")


class ImageKeys(Section):
    """Images and their classes."""

    images: str | None = Field(
        default=None,
        min_length=1,
        description="a folder with one folder of pictures a class, or an .npz with `images` (N x H x W, or x C) and "
        "`labels` (N whole numbers from 0); left out: only to plan with",
    )
    count: PositiveCount | None = Field(default=None, description="how many images, to plan with")
    classes: PositiveCount | None = Field(default=None, description="of how many classes, to plan with")
    validation: float = Field(default=0.1, ge=0, le=0.5, description="part of the images that is kept for validation")


class ClassifyFile(JobFileBody):
    """Train an image classifier from scratch."""

    kind: Literal["classify"] = Field(description="train an image classifier from scratch")
    model: Annotated[Annotated[str, Tag("(text)")] | Annotated[VisionKeys, Tag("(mapping)")], by_type(VisionKeys)] = (
        Field(default="vit-tiny", description="the name of a preset, or the sizes of a vision transformer")
    )
    data: ImageKeys = Field(description="images to train on")
    train: ClassifyTrain = Field(description="how long and how to train")
    strategy: StrategyKeys = Field(default_factory=StrategyKeys, description="what you fix yourself")
