"""Weights from and to folders in Hugging Face format, by safetensors only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mofang.errors import DataError
from mofang.recipes.finetune.names import published_names
from mofang.spec.weights import Stored

__all__ = ["load_weights", "save_weights"]

_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LARGEST_FILE = 4 << 30  # bytes of weights in one file
_COPIED = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json"),
)


@torch.no_grad()
def load_weights(model: nn.Module, stored: Mapping[str, Stored]) -> None:
    """Fill every parameter of the model from the files that hold it.

    Raises:
        DataError: a file cannot be read, or holds another type than floating-point numbers.
    """
    for parameter, tensor in model.named_parameters():
        start = 0
        for name in published_names(parameter):
            part = _read(name, stored[name])
            tensor[start : start + len(part)].copy_(part)
            start += len(part)


def _read(name: str, stored: Stored) -> Tensor:
    if stored.dtype not in _TYPES:
        raise DataError(
            f"{name} in {stored.file} is of type {stored.dtype}, which cannot be trained",
            hint=f"give weights of type {', '.join(_TYPES)}",
        )
    try:
        with safe_open(stored.file, framework="pt", device="cpu") as file:
            tensor: Tensor = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{stored.file} cannot be read: {error}", hint="copy the folder again") from error
    return tensor


def save_weights(parameters: Mapping[str, Tensor], stored: Mapping[str, Stored], base: Path, folder: Path) -> None:
    """Write a folder like ``base`` with these parameters; each tensor has the type that it has there.

    Args:
        parameters: of the model, by its own names.
        stored: the tensors of ``base``.
        base: the folder whose configuration and tokenizer are copied.
        folder: an empty one.
    """
    for name in _COPIED:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    groups = list(_grouped(parameters, stored))
    places: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = "model.safetensors" if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {name: value.to(_TYPES[stored[name].dtype], copy=True).cpu() for name, value in group.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
    if len(groups) > 1:
        size = sum(
            value.numel() * _TYPES[stored[name].dtype].itemsize for group in groups for name, value in group.items()
        )
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _grouped(parameters: Mapping[str, Tensor], stored: Mapping[str, Stored]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors of each file: views of the parameters, as many as fit."""
    group: dict[str, Tensor] = {}
    size = 0
    for name, value in _published(parameters, stored):
        bytes_needed = value.numel() * _TYPES[stored[name].dtype].itemsize
        if group and size + bytes_needed > _LARGEST_FILE:
            yield group
            group, size = {}, 0
        group[name] = value
        size += bytes_needed
    yield group


def _published(parameters: Mapping[str, Tensor], stored: Mapping[str, Stored]) -> Iterator[tuple[str, Tensor]]:
    for parameter, tensor in parameters.items():
        names = published_names(parameter)
        rows = [stored[name].shape[0] for name in names]
        yield from zip(names, torch.split(tensor.detach(), rows), strict=True)
