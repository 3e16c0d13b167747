"""The argument parser of every command: one line for what is wrong, and what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from mofang.errors import UsageError

__all__ = ["Parser", "did_you_mean", "examples"]

_CHOICE = re.compile(r"invalid choice: '?(?P<given>[^' ]*)'? \(choose from (?P<choices>.*)\)")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'X'?`` for the known word nearest to this one, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def examples(*lines: str, exit_codes: str = "") -> str:
    """Return the end of a command's help: examples, and exit codes where the command has its own."""
    text = "examples:\n" + "\n".join(f"  {line}" for line in lines)
    return f"{text}\n\nexit codes:\n  {exit_codes}" if exit_codes else text


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises ``UsageError`` where the standard one prints its usage and exits."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)  # an abbreviation that works today is another flag's tomorrow
        super().__init__(**options)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse all words.

        Raises:
            UsageError: a word is not known, is missing or is wrong.
        """
        found, extra = self.parse_known_args(words)
        if extra:
            raise self._unknown(extra[0])
        return found

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong as a ``UsageError``."""
        choice = _CHOICE.search(message)
        near = did_you_mean(choice["given"], re.findall(r"[\w-]+", choice["choices"])) if choice else ""
        raise UsageError(f"{self.prog}: {message}", hint=near or f"`{self.prog} --help` shows how it is used")

    def _unknown(self, word: str) -> UsageError:
        usage = f"`{self.prog} --help` shows how it is used"
        if not word.startswith("-"):
            return UsageError(f"{self.prog}: {word!r} is one word too many", hint=usage)
        flag = word.partition("=")[0]
        return UsageError(f"{self.prog}: there is no option {flag!r}", hint=did_you_mean(flag, self._flags()) or usage)

    def _flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings]
