"""Documents to fine-tune on: lines of ``.jsonl`` files, or whole text files.

Trainers read the same files through ``read_examples``, so what was looked at is what is trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mofang.errors import DataError
from mofang.spec.data import inspect_text, text_files

__all__ = ["Example", "inspect_examples", "is_lines", "read_examples"]

_MOST_CHECKED = 64 << 20  # bytes of lines that are read when a job is planned; the trainer reads them all
_HINT = 'write {"text": ...} or {"prompt": ..., "response": ...}, one object a line'


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One document. Of a pair only the response is learned; ``prompt`` is empty where all of the text is."""

    text: str
    prompt: str = ""


def is_lines(path: Path) -> bool:
    """Whether every line of the file is a document of its own."""
    return path.suffix.lower() == ".jsonl"


def read_examples(path: Path, most_bytes: int | None = None) -> Iterator[Example]:
    """Yield the documents of a ``.jsonl`` file; empty lines are passed over.

    Args:
        path: the file.
        most_bytes: stop after the line that reaches so many.

    Raises:
        DataError: a line is not one of the two kinds of object; file and line are named.
    """
    read = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _example(path, number, line)
                read += len(line)
                if most_bytes is not None and read >= most_bytes:
                    return
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="the text must stay in place") from error


def inspect_examples(paths: Sequence[str], tokenizer: str) -> int:
    """Return how many bytes of text there are; see ``inspect_text``. The first lines of each file are read too.

    Raises:
        DataError: something is missing, unreadable, empty, binary or not UTF-8, or a line is no document.
    """
    total = inspect_text(paths, tokenizer)
    for path in filter(is_lines, text_files(paths)):
        if not sum(1 for _ in read_examples(path, _MOST_CHECKED)):
            raise DataError(f"{path} has no documents: all its lines are empty", hint=_HINT)
    return total


def _example(path: Path, number: int, line: bytes) -> Example:
    try:
        found = json.loads(line)
    except UnicodeDecodeError as error:
        raise _error(path, number, f"is not UTF-8: byte {error.start} is 0x{line[error.start]:02x}") from error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deep, or a number too long"
        raise _error(path, number, f"is not JSON: {reason}") from error
    if not isinstance(found, dict):
        raise _error(path, number, "is not an object")
    if "text" in found:
        if "prompt" in found or "response" in found:
            raise _error(path, number, "has 'text' and also 'prompt' or 'response'")
        return Example(text=_text(path, number, found, "text"))
    if "prompt" not in found or "response" not in found:
        keys = ", ".join(map(repr, list(found)[:6])) or "nothing"
        raise _error(path, number, f"has neither 'text' nor 'prompt' and 'response', but {keys}")
    if not isinstance(found["prompt"], str):
        raise _error(path, number, "its 'prompt' is not text")
    return Example(text=_text(path, number, found, "response"), prompt=found["prompt"])


def _text(path: Path, number: int, found: dict[str, Any], key: str) -> str:
    value = found[key]
    if not isinstance(value, str) or not value:
        raise _error(path, number, f"its {key!r} is {'empty' if value == '' else 'not text'}")
    return value


def _error(path: Path, number: int, why: str) -> DataError:
    message = f"{path}, line {number}: {'' if why.startswith('its') else 'the line '}{why}"
    return DataError(message, hint=_HINT, data={"path": str(path), "line": number})
