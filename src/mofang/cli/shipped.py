"""The examples that come with Mofang: beside the source in a checkout, inside the package where it is installed."""

from __future__ import annotations

from pathlib import Path

import mofang
from mofang.errors import NotFoundError

__all__ = ["example"]


def example(name: str) -> Path:
    """Return the path of an example, such as ``code-gpt/job.yaml``.

    Raises:
        NotFoundError: there is no such example.
    """
    package = Path(mofang.__file__).parent
    for folder in (package.parents[1] / "examples", package / "examples"):
        if (folder / name).is_file():
            return folder / name
    raise NotFoundError(f"there is no example {name}", hint="reinstall Mofang, or run it from its source folder")
