"""Text to numbers and back: bytes as they are, or a ``tokenizer.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mofang.errors import DataError

__all__ = ["ByteTokenizer", "FileTokenizer", "Tokenizer", "open_tokenizer"]

_CHUNK = 1 << 22

Tokens = npt.NDArray[Any]


class Tokenizer(Protocol):
    """Turns files into tokens. ``identity`` names everything that the result depends on."""

    vocab: int
    identity: str

    def encode_file(self, path: Path) -> Iterator[tuple[Tokens, int]]:
        """Yield the tokens of a file, a stretch at a time, and how many bytes each stretch was."""

    def encode(self, text: str, *, special: bool = True) -> Tokens:
        """Return the tokens of a text, with what the tokenizer puts around a whole text where ``special``."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; what is not text shows as replacement characters."""


class ByteTokenizer(Tokenizer):
    """One token a byte."""

    vocab = 256
    identity = "bytes"

    def encode_file(self, path: Path) -> Iterator[tuple[Tokens, int]]:
        """Yield the bytes of a file."""
        with path.open("rb") as stream:
            while piece := stream.read(_CHUNK):
                yield np.frombuffer(piece, dtype=np.uint8), len(piece)

    def encode(self, text: str, *, special: bool = True) -> Tokens:
        """Return the bytes of a text in UTF-8; there are no special ones."""
        del special
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the bytes as UTF-8; a model may know more tokens than there are bytes, and those say nothing."""
        return bytes(token for token in tokens if token < self.vocab).decode("utf-8", errors="replace")


class FileTokenizer(Tokenizer):
    """A tokenizer of the Hugging Face ``tokenizers`` library."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Library  # noqa: PLC0415 - an optional library, and bytes need none

        try:
            text = path.read_text(encoding="utf-8")
            self._library = Library.from_str(text)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"{path} is not a tokenizer: {error}", hint="give a tokenizer.json, or bytes") from error
        self.vocab = self._library.get_vocab_size()
        self.identity = hashlib.sha256(text.encode()).hexdigest()

    def encode_file(self, path: Path) -> Iterator[tuple[Tokens, int]]:
        """Yield the tokens of a file; text is cut every few million characters."""
        with path.open(encoding="utf-8", errors="replace") as stream:
            while piece := stream.read(_CHUNK):
                yield np.asarray(self._library.encode(piece).ids, dtype=np.uint32), len(piece.encode())

    def encode(self, text: str, *, special: bool = True) -> Tokens:
        """Return the tokens of a text."""
        return np.asarray(self._library.encode(text, add_special_tokens=special).ids, dtype=np.uint32)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text."""
        return str(self._library.decode(list(tokens)))


def open_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer ``bytes`` or the one in a file.

    Raises:
        DataError: the file is not a tokenizer.
    """
    return ByteTokenizer() if name == "bytes" else FileTokenizer(Path(name))
