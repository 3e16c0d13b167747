"""``python -m mofang.recipes.gpt --config recipe.json``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mofang.clock import SystemClock
from mofang.errors import MofangError
from mofang.recipes.gpt.config import read_config
from mofang.recovery.worker import Worker

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe as one worker; return its exit code. An error of the user's is one line, never a traceback."""
    parser = argparse.ArgumentParser(prog="mofang.recipes.gpt", description="Train a decoder-only model from scratch.")
    parser.add_argument("--config", type=Path, required=True, help="recipe.json of the attempt")
    options = parser.parse_args(argv)
    try:
        config = read_config(options.config)
        from mofang.recipes.gpt.main import run  # noqa: PLC0415 - a wrong configuration is told before torch is loaded

        run(config, Worker.from_environment(), SystemClock())
    except MofangError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"{type(error).__name__}: {error.message}{hint}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
