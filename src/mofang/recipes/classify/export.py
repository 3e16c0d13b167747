"""What a run leaves behind: a folder that the ViT image classifier of transformers reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mofang.domain.scenario import ImageData, VisionModel
from mofang.recipes.classify.model import NORM_EPSILON
from mofang.recipes.training.output import replace_folder

__all__ = ["export_classifier"]

_BLOCK = {
    "attention_norm": "layernorm_before",
    "ffn_norm": "layernorm_after",
    "attention.out": "attention.output.dense",
    "ffn.up": "intermediate.dense",
    "ffn.down": "output.dense",
}
_REST = {
    "token": "vit.embeddings.cls_token",
    "positions": "vit.embeddings.position_embeddings",
    "patches.weight": "vit.embeddings.patch_embeddings.projection.weight",
    "patches.bias": "vit.embeddings.patch_embeddings.projection.bias",
    "norm.weight": "vit.layernorm.weight",
    "norm.bias": "vit.layernorm.bias",
    "head.weight": "classifier.weight",
    "head.bias": "classifier.bias",
}


def export_classifier(
    parameters: Mapping[str, Tensor], model: VisionModel, data: ImageData, names: Sequence[str], output: Path
) -> int:
    """Write ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``; return their bytes.

    Args:
        parameters: of the model, by its own names.
        model: its sizes.
        data: for the channels of an image.
        names: of the classes, in order.
        output: the folder to write; what is there already is replaced.

    Raises:
        StoreError: it cannot be written.
    """

    def fill(draft: Path) -> None:
        tensors: dict[str, Tensor] = {}
        for name, value in parameters.items():
            tensors |= _published(name, value.detach().cpu(), model.patch_size, data.channels)
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        for file, content in (
            ("config.json", _config(model, data, names)),
            ("preprocessor_config.json", _preprocessing(model, data)),
        ):
            (draft / file).write_text(json.dumps(content, indent=2), encoding="utf-8")

    return replace_folder(output, fill)


def _published(name: str, value: Tensor, side: int, channels: int) -> dict[str, Tensor]:
    """Return a parameter under the names, and in the shapes, that ViT checkpoints have."""
    if name == "patches.weight":  # (row, column, channel) of a patch become (channel, row, column)
        value = value.view(-1, side, side, channels).permute(0, 3, 1, 2)
    if name in {"token", "positions"}:
        value = value.view(1, -1, value.shape[-1])
    if not name.startswith("blocks."):
        return {_REST[name]: value.contiguous()}
    _, number, rest = name.split(".", 2)
    part, kind = rest.rsplit(".", 1)
    layer = f"vit.encoder.layer.{number}"
    if part == "attention.qkv":
        pieces = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return {f"{layer}.attention.attention.{which}.{kind}": piece.contiguous() for which, piece in pieces}
    return {f"{layer}.{_BLOCK[part]}.{kind}": value.contiguous()}


def _config(model: VisionModel, data: ImageData, names: Sequence[str]) -> dict[str, Any]:
    return {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "image_size": model.image_size,
        "patch_size": model.patch_size,
        "num_channels": data.channels,
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.ffn,
        "hidden_act": "gelu",
        "layer_norm_eps": NORM_EPSILON,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "torch_dtype": "float32",
    }


def _preprocessing(model: VisionModel, data: ImageData) -> dict[str, Any]:
    """Return how bytes become what the model takes: -1..1."""
    half = [0.5] * data.channels
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": model.image_size, "width": model.image_size},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": half,
        "image_std": half,
    }
