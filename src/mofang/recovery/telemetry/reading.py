"""Small files of the kernel as numbers; what is missing or of another form is None, never an error."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["Rate", "number_in", "text_in"]


def text_in(path: Path) -> str:
    """Return the text of a file; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def number_in(path: Path) -> float | None:
    """Return the number that a file holds."""
    try:
        return float(path.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return None


class Rate:
    """Differences between one reading of counters and the next; counters that went back began anew."""

    def __init__(self) -> None:
        self._last: tuple[float, ...] | None = None

    def step(self, counters: Iterable[float]) -> tuple[float, ...] | None:
        """Return how much each counter grew since the last call; None at the first."""
        now = tuple(counters)
        before, self._last = self._last, now
        if before is None or len(before) != len(now):
            return None
        return tuple(max(new - old, 0.0) for new, old in zip(now, before, strict=True))
