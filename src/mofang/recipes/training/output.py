"""The folder that a run leaves behind, whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from mofang.clock import new_token
from mofang.errors import StoreError

__all__ = ["replace_folder"]


def replace_folder(output: Path, fill: Callable[[Path], None]) -> int:
    """Fill a draft, put it into place, and return its bytes; what was there before is replaced.

    Raises:
        StoreError: it cannot be written.
    """
    draft = output.with_name(f".{output.name}.{new_token(4)}")
    try:
        draft.mkdir(parents=True)
        fill(draft)
        size = sum(file.stat().st_size for file in draft.iterdir())
        if output.exists():
            old = output.with_name(f".{output.name}.{new_token(4)}")
            output.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        draft.rename(output)
    except OSError as error:
        raise StoreError(
            f"{output} cannot be written: {error.strerror or error}", hint="free some space there"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return size
