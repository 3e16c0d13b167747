"""The token file: built once from text, kept by what it was built from, mapped into memory by every worker."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from mofang.domain.scenario import TextData
from mofang.errors import DataError, StoreError
from mofang.recipes.gpt.sources import SourceFile, find_sources
from mofang.recipes.gpt.tokenizer import ByteTokenizer, Tokenizer, Tokens
from mofang.recipes.training.cache import Kind, Progress, prepare_folder, write_durably

__all__ = ["TokenFile", "TokenWriter", "open_tokens", "prepare_tokens", "sources_key"]

_FORMAT = 1
_BETWEEN_FILES = b"\n"


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
        record: a file that remembers the key of this job; see ``prepare_folder``.
        progress: told about the building.

    Raises:
        DataError: there is no text, it cannot be read, or it is not the text that the job began with.
        StoreError: the token file cannot be written.
    """
    sources = cache(lambda: find_sources(data.paths))
    kind = Kind(
        key=lambda: sources_key(sources(), _FORMAT, tokenizer.identity),
        fill=lambda draft: _fill(draft, sources(), tokenizer, progress),
        is_whole=lambda folder: open_tokens(folder.parent, folder.name) is not None,
    )
    folder = prepare_folder(directory, kind, record=record)
    found = open_tokens(directory, folder.name)
    if found is None:
        raise StoreError(f"the token file in {folder} is torn", hint="remove that folder")
    return found


def open_tokens(directory: Path, key: str) -> TokenFile | None:
    """Return the token file of this key, or None where it is missing or torn."""
    try:
        meta = json.loads((directory / key / "meta.json").read_text(encoding="utf-8"))
        tokens = np.memmap(directory / key / "tokens.bin", dtype=meta["dtype"], mode="r")
    except (OSError, ValueError, KeyError):
        return None
    return TokenFile(key=key, tokens=tokens) if len(tokens) == meta["tokens"] else None


def sources_key(sources: Sequence[SourceFile], *facts: object) -> str:
    """Return a name for data that is built from these files and facts."""
    whole = [*facts, [(source.name, source.bytes, source.stamp) for source in sources]]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:32]


class TokenWriter:
    """Writes ``tokens.bin`` and, when it is left without an error, ``meta.json``."""

    def __init__(self, draft: Path, vocab: int) -> None:
        self._draft = draft
        self._dtype = np.uint8 if vocab <= 1 << 8 else np.uint16 if vocab <= 1 << 16 else np.uint32
        self._out = (draft / "tokens.bin").open("wb")
        self.count = 0

    def write(self, tokens: Tokens) -> None:
        """Append tokens."""
        self._out.write(tokens.astype(self._dtype).tobytes())
        self.count += len(tokens)

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._out:
            if kind is not None:
                return
            self._out.flush()
            os.fsync(self._out.fileno())
        meta = {"dtype": np.dtype(self._dtype).name, "tokens": self.count}
        write_durably(self._draft / "meta.json", json.dumps(meta))


def _fill(draft: Path, sources: Sequence[SourceFile], tokenizer: Tokenizer, progress: Progress) -> None:
    total, done = sum(source.bytes for source in sources), 0
    with TokenWriter(draft, tokenizer.vocab) as out:
        for source in sources:
            for piece, size in _read(source, tokenizer):
                out.write(piece)
                done += size
                progress(min(done, total), total, source.name)
    progress(total, total, "")


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
