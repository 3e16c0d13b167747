"""``python -m mofang.recipes.serving --config recipe.json``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mofang.clock import SystemClock
from mofang.domain.codec import decode
from mofang.domain.recipe import ServingConfig
from mofang.errors import MofangError, SpecError, StoreError
from mofang.recovery.worker import Worker

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; return the exit code. An error of the user's is one line, never a traceback."""
    parser = argparse.ArgumentParser(prog="mofang.recipes.serving", description="Serve a causal language model.")
    parser.add_argument("--config", type=Path, required=True, help="recipe.json of the attempt")
    options = parser.parse_args(argv)
    try:
        config = _read(options.config)
        from mofang.recipes.serving.main import serve  # noqa: PLC0415 - a wrong configuration is told before torch

        serve(config, Worker.from_environment(), SystemClock())
    except MofangError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"{type(error).__name__}: {error.message}{hint}\n")
        return error.exit_code
    return 0


def _read(path: Path) -> ServingConfig:
    try:
        return decode(ServingConfig, path.read_bytes())
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from error
    except StoreError as error:
        raise SpecError(f"{path}: {error.message}") from error


if __name__ == "__main__":
    sys.exit(main())
