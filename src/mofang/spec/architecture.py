"""The model that a job file names, or writes out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from mofang.domain.hardware import Accelerator
from mofang.domain.model import ModelArchitecture
from mofang.errors import SpecError
from mofang.spec.schema import InlineModel

__all__ = ["Catalog", "architecture"]

_INLINE_SEQUENCE = 256
_NAMED_SEQUENCE = 1024  # at most, where the file does not say


class Catalog(Protocol):
    """What reading a job file asks of the catalogue."""

    def model(self, name_or_path: str) -> ModelArchitecture:
        """Return the model of this name, or of this config.json."""

    def accelerator(self, name: str) -> Accelerator:
        """Return the accelerator of this name or alias."""


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
    is_path = model.endswith(".json") or model.startswith(("/", "./", "../", "~")) or path.is_file()
    if is_path and not path.exists():
        raise SpecError(f"the model file {model} does not exist", hint=f"it is looked for in {base_dir}")
    found = catalog.model(str(path) if is_path else model)
    return found, sequence or min(found.max_sequence, _NAMED_SEQUENCE)


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
