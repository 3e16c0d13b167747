"""The token file: built once from text, kept by what it was built from, mapped into memory by every worker."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mofang.clock import new_token
from mofang.domain.scenario import TextData
from mofang.errors import DataError, StoreError
from mofang.recipes.gpt.sources import SourceFile, find_sources
from mofang.recipes.gpt.tokenizer import ByteTokenizer, Tokenizer, Tokens

__all__ = ["Progress", "TokenFile", "open_tokens", "prepare_tokens"]

_FORMAT = 1
_BETWEEN_FILES = b"\n"

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, file


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """All tokens, training text first. ``key`` names what they were built from."""

    key: str
    tokens: Tokens


def prepare_tokens(
    data: TextData, tokenizer: Tokenizer, directory: Path, *, record: Path | None, progress: Progress
) -> TokenFile:
    """Return the token file, built if it is not there yet.

    Args:
        data: the text.
        tokenizer: how it becomes tokens.
        directory: where token files are kept, one folder a key.
        record: a file that remembers the key of this job. A job that goes on takes the text it began with, even where
            its sources have vanished since, and does not look at them again.
        progress: told about the building.

    Raises:
        DataError: there is no text, it cannot be read, or it is not the text that the job began with.
        StoreError: the token file cannot be written.
    """
    known = _recorded(record)
    if known and (found := open_tokens(directory, known)):
        return found
    sources = find_sources(data.paths)
    key = _key(sources, tokenizer)
    if known and key != known:
        raise DataError(
            "the training text has changed since the job began",
            hint="put it back, or submit a new job to train on the new text",
        )
    found = open_tokens(directory, key) or _build(sources, tokenizer, directory, key, progress)
    if record is not None and not known:
        _write(record, json.dumps({"key": key}))
    return found


def open_tokens(directory: Path, key: str) -> TokenFile | None:
    """Return the token file of this key, or None where it is missing or torn."""
    try:
        meta = json.loads((directory / key / "meta.json").read_text(encoding="utf-8"))
        tokens = np.memmap(directory / key / "tokens.bin", dtype=meta["dtype"], mode="r")
    except (OSError, ValueError, KeyError):
        return None
    return TokenFile(key=key, tokens=tokens) if len(tokens) == meta["tokens"] else None


def _recorded(record: Path | None) -> str | None:
    if record is None:
        return None
    try:
        key = json.loads(record.read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError):
        return None
    return str(key)


def _key(sources: Sequence[SourceFile], tokenizer: Tokenizer) -> str:
    facts = [_FORMAT, tokenizer.identity, [(source.name, source.bytes, source.stamp) for source in sources]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _build(
    sources: Sequence[SourceFile], tokenizer: Tokenizer, directory: Path, key: str, progress: Progress
) -> TokenFile:
    draft = directory / f".{key}.{new_token(4)}"
    try:
        draft.mkdir(parents=True)
        _fill(draft, sources, tokenizer, progress)
        _publish(draft, directory / key)
    except OSError as error:
        raise StoreError(
            f"the token file cannot be written to {directory}: {error.strerror}", hint="free some space there"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    built = open_tokens(directory, key)
    if built is None:
        raise StoreError(f"the token file in {directory / key} is torn", hint="remove that folder")
    return built


def _publish(draft: Path, target: Path) -> None:
    """Move the finished folder into place; where another worker was faster, its equal one stands."""
    try:
        draft.rename(target)
    except OSError:
        if open_tokens(target.parent, target.name) is None:
            shutil.rmtree(target, ignore_errors=True)
            draft.rename(target)


def _fill(draft: Path, sources: Sequence[SourceFile], tokenizer: Tokenizer, progress: Progress) -> None:
    dtype = np.uint8 if tokenizer.vocab <= 1 << 8 else np.uint16 if tokenizer.vocab <= 1 << 16 else np.uint32
    total, done, count = sum(source.bytes for source in sources), 0, 0
    with (draft / "tokens.bin").open("wb") as out:
        for source in sources:
            for piece, size in _read(source, tokenizer):
                out.write(piece.astype(dtype).tobytes())
                count += len(piece)
                done += size
                progress(min(done, total), total, source.name)
        out.flush()
        os.fsync(out.fileno())
    progress(total, total, "")
    _write(draft / "meta.json", json.dumps({"dtype": np.dtype(dtype).name, "tokens": count}))


def _read(source: SourceFile, tokenizer: Tokenizer) -> Iterator[tuple[Tokens, int]]:
    """Yield a file's tokens and, for bytes, a line's end after it; other tokenizers see each file apart anyway."""
    try:
        yield from tokenizer.encode_file(source.path)
        if tokenizer.identity == ByteTokenizer.identity:
            yield np.frombuffer(_BETWEEN_FILES, dtype=np.uint8), 0
    except OSError as error:
        raise DataError(
            f"{source.path} cannot be read: {error.strerror}", hint="the text must stay in place"
        ) from error


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{new_token(4)}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
