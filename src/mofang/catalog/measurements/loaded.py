"""What reading a file of measurements gives: the good rows, and what is wrong with the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Loaded", "Problem"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One row that was left out, and why; ``file`` is the file's name, "" for the packaged rows."""

    line: int
    message: str
    file: str = ""

    def __str__(self) -> str:
        return f"{self.file + ', ' if self.file else ''}line {self.line}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[T]):
    """The rows that could be read, and the problems of those that could not."""

    rows: tuple[T, ...]
    problems: tuple[Problem, ...] = ()
