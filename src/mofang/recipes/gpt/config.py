"""Reading ``recipe.json``. No torch."""

from __future__ import annotations

from pathlib import Path

from mofang.domain.codec import decode
from mofang.domain.recipe import GptConfig
from mofang.errors import SpecError, StoreError

__all__ = ["read_config"]


def read_config(path: Path) -> GptConfig:
    """Return the configuration in a file.

    Raises:
        SpecError: the file cannot be read, or asks for what the recipe cannot do.
    """
    try:
        return decode(GptConfig, path.read_bytes())
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from error
    except StoreError as error:
        raise SpecError(f"{path}: {error.message}") from error
