"""Any Hugging Face ``config.json`` of a decoder-only transformer -> ``ModelArchitecture``; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from mofang.catalog.huggingface.classic import CLASSIC
from mofang.catalog.huggingface.config import Config, load
from mofang.catalog.huggingface.decoders import DECODERS
from mofang.catalog.huggingface.experts import EXPERTS
from mofang.catalog.names import nearest
from mofang.domain.model import ModelArchitecture
from mofang.errors import CatalogError, SpecError

__all__ = ["read_config", "supported_types"]

_READERS = CLASSIC | DECODERS | EXPERTS


def supported_types() -> tuple[str, ...]:
    """Return every ``model_type`` that can be read."""
    return tuple(sorted(_READERS))


def read_config(path: Path) -> ModelArchitecture:
    """Return the architecture that a ``config.json`` describes; of a model that also sees or hears, its text part.

    Args:
        path: the file, or the folder that holds one as ``config.json``.

    Raises:
        CatalogError: the file cannot be read, its ``model_type`` is not known, or a key is missing or wrong; it names
            the file and the key.
    """
    config = load(path)
    model_type = config.text("model_type")
    if model_type not in _READERS and config.has("text_config"):
        config = config.part("text_config")
        model_type = config.text("model_type")
    reader = _READERS.get(model_type)
    if reader is None:
        raise _unknown(config, model_type)
    try:
        return reader(config)
    except SpecError as error:
        raise CatalogError(f"{config.file}: {error.message}", hint=error.hint) from error


def _unknown(config: Config, model_type: str) -> CatalogError:
    near = nearest(model_type, _READERS)
    hint = f"the nearest known one is {near[0]!r}; " if near else ""
    hint += "or describe the model as a row in the catalogue folder: `mofang catalog models --help`"
    return CatalogError(f"{config.file}: model_type {model_type!r} is not known", hint=hint)
