"""The model that a job file names, or writes out."""

from __future__ import annotations

import os
from pathlib import Path

from mofang.domain.model import ModelArchitecture
from mofang.errors import SpecError
from mofang.spec.context import Catalog
from mofang.spec.schema.pretrain import InlineModel

__all__ = ["architecture", "published_model"]

_INLINE_SEQUENCE = 256
_NAMED_SEQUENCE = 1024  # at most, where the file does not say


def architecture(
    model: str | InlineModel, *, sequence: int | None, vocabulary: int, base_dir: Path, catalog: Catalog, name: str
) -> tuple[ModelArchitecture, int]:
    """Return the model, and the sequence length: the one asked for, or a sensible one.

    Raises:
        MofangError: the model is unknown, or its sizes do not fit each other.
    """
    if isinstance(model, InlineModel):
        length = sequence or min(model.max_sequence or _INLINE_SEQUENCE, _NAMED_SEQUENCE)
        return _inline(model, length, vocabulary, name), length
    path = base_dir / os.path.expanduser(model)  # noqa: PTH111 - Path's fails on ~nobody
    is_path = _looks_like_path(model) or path.is_file()
    if is_path and not path.exists():
        raise SpecError(f"the model file {model} does not exist", hint=f"it is looked for in {base_dir}")
    found = catalog.model(str(path) if is_path else model)
    return found, sequence or min(found.max_sequence, _NAMED_SEQUENCE)


def published_model(text: str, *, base_dir: Path, catalog: Catalog) -> tuple[ModelArchitecture, Path | None]:
    """Return the model of a folder in Hugging Face format and that folder, or a model that is only known by its sizes.

    A folder of that name with a config.json comes before a name of the catalogue.

    Raises:
        MofangError: the model is unknown, the folder is not there, or its config.json says too little.
    """
    path = base_dir / os.path.expanduser(text)  # noqa: PTH111 - Path's fails on ~nobody
    if path.is_dir() and ((path / "config.json").exists() or _looks_like_path(text)):
        return catalog.model(str(path / "config.json")), path
    if path.is_file() or _looks_like_path(text):
        if not path.exists():
            raise SpecError(f"the model {text} does not exist", hint=f"it is looked for in {base_dir}")
        return catalog.model(str(path)), None
    return catalog.model(text), None


def _looks_like_path(text: str) -> bool:
    return text.endswith(".json") or text.startswith(("/", "./", "../", "~"))


def _inline(model: InlineModel, sequence: int, vocabulary: int, name: str) -> ModelArchitecture:
    if model.head_dim is None and model.hidden % model.heads:
        raise SpecError(
            f"hidden must be a multiple of heads: {model.hidden} = {model.hidden // model.heads} x {model.heads} + "
            f"{model.hidden % model.heads}",
            hint="change hidden or heads, or give head_dim",
        )
    return ModelArchitecture(
        name=model.name or name,
        layers=model.layers,
        hidden=model.hidden,
        heads=model.heads,
        kv_heads=model.kv_heads or model.heads,
        ffn=model.ffn or _gated_width(model.hidden),
        vocab=model.vocab or vocabulary,
        head_dim=model.head_dim or model.hidden // model.heads,
        max_sequence=model.max_sequence or sequence,
        tied_embeddings=model.tied_embeddings,
        source="job file",
    )


def _gated_width(hidden: int) -> int:
    """Return 8/3 of the width, as in LLaMA (arXiv:2302.13971, section 2.2), rounded up to a multiple of 8."""
    return -(-8 * hidden // 3 // 8) * 8
