"""How names are compared: by letters and digits alone, so that ``h100 sxm`` is ``H100-SXM``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["key", "nearest"]


def key(name: str) -> str:
    """Return what two spellings of one name have in common: letters, digits, ``.`` and ``+``, in lower case."""
    return "".join(char for char in name.casefold() if char.isalnum() or char in ".+")


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return up to three known names that resemble this one, the most similar first."""
    spelled: dict[str, str] = {}
    for candidate in known:
        spelled.setdefault(key(candidate), candidate)
    wanted = key(name)
    near = difflib.get_close_matches(wanted, spelled, n=3, cutoff=0.6)
    near += [candidate for candidate in spelled if len(wanted) > 2 and wanted in candidate and candidate not in near]
    return tuple(spelled[candidate] for candidate in near[:3])
