"""Text to train on, looked at before anything runs: which files it is, that they are text, and how much there is.

Trainers read the same files through ``text_files``, so what was looked at is what is trained on.
"""

from __future__ import annotations

import codecs
import glob
import json
import os
import stat
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mofang.errors import DataError

__all__ = ["BYTE_VOCABULARY", "PYTHON_STDLIB", "inspect_text", "text_files", "tokenizer_vocabulary"]

PYTHON_STDLIB = "python-stdlib"
BYTE_VOCABULARY = 256

_HEAD_BYTES = 65536  # as much of each file is looked at
_NOT_SOURCE = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def text_files(paths: Sequence[str]) -> tuple[Path, ...]:
    """Return the files that these paths stand for, each once, in an order that depends on their names only.

    A file is itself, a glob is the text files it matches, a folder is all text files below it (hidden ones and
    ``__pycache__`` left out), ``python-stdlib`` is the source of this machine's standard library without its tests.

    Raises:
        DataError: a path does not exist, matches nothing or has no text in it, or cannot be read.
    """
    found: dict[Path, None] = {}
    for path in paths:
        try:
            found.update(dict.fromkeys(_expanded(path)))
        except OSError as error:  # a folder on the way is closed, a name is too long
            raise DataError(f"{path} cannot be read: {error.strerror}", hint="may you read it?") from error
    return tuple(found)


def inspect_text(paths: Sequence[str], tokenizer: str = "bytes") -> int:
    """Return how many bytes of text there are.

    Args:
        paths: absolute files, globs or folders, or ``python-stdlib``.
        tokenizer: ``bytes``, or the path of a tokenizer.json, which reads UTF-8 only.

    Raises:
        DataError: something is missing, unreadable, empty, binary or not UTF-8.
    """
    total = 0
    for path in text_files(paths):
        fault = _fault(_head(path), utf8=tokenizer != "bytes")
        if fault:
            hint = "give text files" if "NUL" in fault else "save it as UTF-8, or use `tokenizer: bytes`"
            raise DataError(f"{path} {fault}", hint=hint, data={"path": str(path)})
        total += path.stat().st_size
    if total == 0:
        raise DataError(f"there is no text in {', '.join(paths)}", hint="give files that are not empty")
    return total


def tokenizer_vocabulary(path: str) -> int:
    """Return how many token ids a tokenizer.json has, the added ones included.

    Raises:
        DataError: the file cannot be read or is no tokenizer.json.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        ids = _token_ids(vocabulary) | {int(token["id"]) for token in content.get("added_tokens") or ()}
        return max(ids) + 1
    except OSError as error:
        raise DataError(f"the tokenizer {path} cannot be read: {error.strerror}", hint="is the path right?") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a tokenizer.json", hint="give the file that Hugging Face tokenizers write, or `bytes`"
        ) from error


def _token_ids(vocabulary: Any) -> set[int]:
    """Return the ids of a word or BPE model (token: id), or of a unigram model (a list in order of id)."""
    return (
        set(range(len(vocabulary))) if isinstance(vocabulary, list) else {int(value) for value in vocabulary.values()}
    )


def _expanded(path: str) -> Iterator[Path]:
    if path == PYTHON_STDLIB:
        yield from _standard_library()
    elif Path(path).is_dir():
        yield from _folder(Path(path))
    elif Path(path).exists():
        yield _regular(Path(path))
    elif glob.has_magic(path):
        yield from _matches(path)
    else:
        raise DataError(f"{path} does not exist", hint="is the path right? it counts from the job file's folder")


def _standard_library() -> list[Path]:
    root = sysconfig.get_path("stdlib")
    found = [path for path in _walk(Path(root)) if path.suffix == ".py"]
    if not found:
        raise DataError(f"this Python keeps no source code in {root}", hint="give a folder of text instead")
    return found


def _folder(root: Path) -> list[Path]:
    found = [path for path in _walk(root, skipped=frozenset({"__pycache__"})) if not _fault(_head(path), utf8=False)]
    if not found:
        raise DataError(f"the folder {root} has no text files", hint="give a folder with text in it")
    return found


def _walk(root: Path, skipped: frozenset[str] = frozenset(_NOT_SOURCE)) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"the folder {error.filename} cannot be read: {error.strerror}", hint="may you read it?")

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if name not in skipped and not name.startswith("."))
        paths = (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        yield from (path for path in paths if path.is_file())


def _matches(pattern: str) -> list[Path]:
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob wants the fixed part apart
    files = [Path(name) for name in names if Path(name).is_file()]
    if not files:
        raise DataError(f"no file matches {pattern}", hint="** matches folders of any depth: texts/**/*.txt")
    found = [file for file in files if not _fault(_head(file), utf8=False)]
    if not found:
        raise DataError(f"no text file matches {pattern}: all {len(files)} are binary", hint="give text files")
    return found


def _regular(path: Path) -> Path:
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError(f"{path} is not a regular file", hint="give files, globs or folders")
    return path


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", hint="may you read it?", data={"path": str(path)}
        ) from error


def _fault(head: bytes, *, utf8: bool) -> str:
    """Return why these first bytes of a file are no text, or nothing."""
    if b"\0" in head:
        return "is binary: it has NUL bytes"
    if utf8:
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head)
        except UnicodeDecodeError as error:
            return f"is not UTF-8: byte {error.start} is 0x{head[error.start]:02x}"
    return ""
