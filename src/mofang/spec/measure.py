"""How long the documents of a small text are, in tokens: counted when the job is planned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mofang.domain.scenario import Lengths
from mofang.spec.data import text_files
from mofang.spec.examples import is_lines, read_examples

__all__ = ["Measured", "measure_lengths"]

_MOST_BYTES = 4 << 20  # of text; a tokenizer takes about a second for it
_POINTS = 21  # quantiles at every 5 per cent
_AT_ONCE = 1000  # documents


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All tokens of a text, and how long its documents are."""

    tokens: int
    lengths: Lengths


def measure_lengths(paths: Sequence[str], tokenizer: str, size: int, *, end: bool) -> Measured | None:
    """Return the lengths of documents; None where the text is large, or nothing here can tokenize it.

    Args:
        paths: absolute files, globs or folders.
        tokenizer: ``bytes``, or the path of a tokenizer.json.
        size: bytes of all text.
        end: whether a token is put after each document.

    Raises:
        DataError: a file cannot be read, or a line of it is no document.
    """
    count = _counter(tokenizer) if size <= _MOST_BYTES else None
    if count is None:
        return None
    found = np.fromiter(count(_texts(text_files(paths))), dtype=np.int64) + end
    found = found[found > 0]
    if not len(found):
        return None
    quantiles = np.quantile(found, np.linspace(0.0, 1.0, _POINTS))
    return Measured(tokens=int(found.sum()), lengths=Lengths(quantiles=tuple(quantiles.tolist())))


def _texts(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        if is_lines(file):
            yield from (example.prompt + example.text for example in read_examples(file))
        else:
            yield file.read_text(encoding="utf-8", errors="replace")


def _counter(tokenizer: str) -> Callable[[Iterator[str]], Iterator[int]] | None:
    """Return what turns texts into their numbers of tokens."""
    if tokenizer == "bytes":
        return lambda texts: (len(text.encode()) for text in texts)
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - comes with mofang[train]; plans are made without it too
    except ImportError:
        return None
    library = Tokenizer.from_file(tokenizer)

    def count(texts: Iterator[str]) -> Iterator[int]:
        group: list[str] = []
        for text in texts:
            group.append(text)
            if len(group) == _AT_ONCE:
                yield from (len(coded.ids) for coded in library.encode_batch(group))
                group = []
        yield from (len(coded.ids) for coded in library.encode_batch(group))

    return count
