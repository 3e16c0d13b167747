"""Documents as tokens: built once from files, kept by what they were built from, mapped into memory by every worker.

A document is a line of a ``.jsonl`` file, or the whole of any other file. The token that ends a text is put after each,
so that the model learns to stop. A prompt is not dressed up: no template of a conversation is applied to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mofang.domain.scenario import TextData
from mofang.errors import DataError, StoreError
from mofang.recipes.gpt.sources import SourceFile, find_sources
from mofang.recipes.gpt.tokenizer import Tokenizer, Tokens
from mofang.recipes.gpt.tokens import TokenWriter, open_tokens, sources_key
from mofang.recipes.training.cache import Kind, Progress, prepare_folder
from mofang.spec.examples import Example, is_lines, read_examples

__all__ = ["Corpus", "prepare_corpus"]

_FORMAT = 1

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """All documents, one after the other.

    Document d is ``tokens[starts[d] : starts[d + 1]]``, the first ``prompts[d]`` of which are not learned.
    """

    tokens: Tokens
    starts: Indices
    prompts: Indices

    def __len__(self) -> int:
        return len(self.prompts)


def prepare_corpus(
    data: TextData,
    tokenizer: Tokenizer,
    directory: Path,
    *,
    end: int | None,
    record: Path | None,
    progress: Progress,
) -> Corpus:
    """Return the documents, tokenized if they are not yet.

    Args:
        data: the files.
        tokenizer: how text becomes tokens.
        directory: where such folders are kept, one a key.
        end: the token after each document; None: there is none.
        record: a file that remembers the key of this job; see ``prepare_folder``.
        progress: told about the building.

    Raises:
        DataError: there is no text, a line of it is no document, or it is not the text that the job began with.
        StoreError: the folder cannot be written.
    """
    sources = cache(lambda: find_sources(data.paths))
    kind = Kind(
        key=lambda: sources_key(sources(), "documents", _FORMAT, tokenizer.identity, end),
        fill=lambda draft: _fill(draft, sources(), tokenizer, end, progress),
        is_whole=lambda folder: _open(folder) is not None,
    )
    folder = prepare_folder(directory, kind, record=record)
    found = _open(folder)
    if found is None:
        raise StoreError(f"the token file in {folder} is torn", hint="remove that folder")
    return found


def _open(folder: Path) -> Corpus | None:
    file = open_tokens(folder.parent, folder.name)
    try:
        index: dict[str, Any] = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("starts", "prompts")
        }
    except (OSError, ValueError):
        return None
    if file is None or index["starts"][-1] != len(file.tokens):
        return None
    return Corpus(tokens=file.tokens, **index)


def _fill(
    draft: Path, sources: tuple[SourceFile, ...], tokenizer: Tokenizer, end: int | None, progress: Progress
) -> None:
    total, done = sum(source.bytes for source in sources), 0
    starts, prompts = [0], []
    after = np.array([] if end is None else [end], dtype=np.uint32)
    with TokenWriter(draft, max(tokenizer.vocab, (end or 0) + 1)) as out:
        for source in sources:
            for pieces, prompt, size in _documents(source, tokenizer):
                for piece in pieces:
                    out.write(piece)
                out.write(after)
                starts.append(out.count)
                prompts.append(prompt)
                done += size
                progress(min(done, total), total, source.name)
        np.save(draft / "starts.npy", np.array(starts, dtype=np.int64), allow_pickle=False)
        np.save(draft / "prompts.npy", np.array(prompts, dtype=np.int64), allow_pickle=False)
    progress(total, total, "")


def _documents(source: SourceFile, tokenizer: Tokenizer) -> Iterator[tuple[Iterator[Tokens], int, int]]:
    """Yield the pieces of each document, how many of its tokens are the prompt, and its size in bytes."""
    if not is_lines(source.path):
        yield _whole(source, tokenizer), 0, source.bytes
        return
    for example in read_examples(source.path):
        prompt, rest = _encoded(example, tokenizer)
        yield iter((prompt, rest)), len(prompt), len(example.prompt) + len(example.text)


def _whole(source: SourceFile, tokenizer: Tokenizer) -> Iterator[Tokens]:
    try:
        yield from (piece for piece, _ in tokenizer.encode_file(source.path))
    except OSError as error:
        raise DataError(
            f"{source.path} cannot be read: {error.strerror}", hint="the text must stay in place"
        ) from error


def _encoded(example: Example, tokenizer: Tokenizer) -> tuple[Tokens, Tokens]:
    """Return the tokens of prompt and response apart, so that the border between them is one between tokens."""
    if not example.prompt:
        return np.zeros(0, dtype=np.uint32), tokenizer.encode(example.text)
    return tokenizer.encode(example.prompt), tokenizer.encode(example.text, special=False)
