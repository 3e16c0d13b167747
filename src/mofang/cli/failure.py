"""The last words of a command that could not do its work."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from mofang.cli.columns import clean
from mofang.cli.output import paint, plain
from mofang.cli.settings import home
from mofang.clock import SystemClock, utc_text
from mofang.errors import MofangError

__all__ = ["record", "tell", "wants_json"]


def wants_json(words: Sequence[str]) -> bool:
    """Whether the words ask for JSON, even where they could not be parsed."""
    joined = " ".join(words)
    return any(form in f"{joined} " for form in ("-o json ", "-ojson ", "--output json ", "--output=json "))


def tell(error: MofangError, words: Sequence[str]) -> int:
    """Write the error to stderr, for a person or as JSON, and return its exit code."""
    if wants_json(words):
        told = plain(error.to_wire()) | {"exit_code": error.exit_code}
        sys.stderr.write(json.dumps(told, ensure_ascii=False) + "\n")
        return error.exit_code
    sys.stderr.write(f"{paint('error:', 'red', sys.stderr)} {clean(error.message)}\n")
    if error.hint:
        sys.stderr.write(f"{paint('hint:', 'cyan', sys.stderr)} {clean(error.hint)}\n")
    return error.exit_code


def record(error: Exception) -> MofangError:
    """Write what nobody expected to ``errors.log`` in Mofang's home, and return the line that says so."""
    text = "".join(traceback.format_exception(error))
    if os.environ.get("MOFANG_DEBUG") == "1":
        sys.stderr.write(text)
    what = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    path = home() / "errors.log"
    try:
        _append(path, text)
    except OSError:
        return MofangError(what, hint="MOFANG_DEBUG=1 shows where it happened")
    return MofangError(what, hint=f"this is a fault of Mofang; the details are in {path}")


def _append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        file.write(f"--- {utc_text(SystemClock().now())}\n{text}\n")
