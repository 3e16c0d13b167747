"""How a recipe starts: ``python -m mofang.recipes.gpt --config recipe.json``. No torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from mofang.clock import Clock, SystemClock
from mofang.domain.codec import decode
from mofang.errors import MofangError, SpecError, StoreError
from mofang.recovery.worker import Worker

__all__ = ["enter", "read_config"]

C = TypeVar("C")


def enter(recipe: str, kind: type[C], description: str, argv: Sequence[str] | None = None) -> int:
    """Run a recipe as one worker; return its exit code. An error of the user's is one line, never a traceback.

    Args:
        recipe: the package of the recipe; its ``main.run`` takes the configuration, the worker and a clock.
        kind: the type of its configuration.
        description: for ``--help``.
        argv: the arguments; None: those of the process.
    """
    parser = argparse.ArgumentParser(prog=recipe, description=description)
    parser.add_argument("--config", type=Path, required=True, help="recipe.json of the attempt")
    options = parser.parse_args(argv)
    try:
        config = read_config(kind, options.config)
        # Only now is torch loaded: a wrong configuration is told at once.
        run: Callable[[C, Worker, Clock], None] = import_module(f"{recipe}.main").run
        run(config, Worker.from_environment(), SystemClock())
    except MofangError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"{type(error).__name__}: {error.message}{hint}\n")
        return error.exit_code
    return 0


def read_config(kind: type[C], path: Path) -> C:
    """Return the configuration in a file.

    Raises:
        SpecError: the file cannot be read, or asks for what the recipe cannot do.
    """
    try:
        return decode(kind, path.read_bytes())
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from error
    except StoreError as error:
        raise SpecError(f"{path}: {error.message}") from error
