"""The door through which time and chance come in.

Everything else takes a ``Clock`` (and, where chance is needed, a ``random.Random``) as an argument, so that tests and
simulations decide what time it is.
"""

from __future__ import annotations

import random
import secrets
import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Chance", "Clock", "ManualClock", "SystemClock", "new_token", "seeded", "utc_text"]


Chance = random.Random  # what :func:`seeded` returns; code that draws takes one as an argument


class Clock(Protocol):
    """Wall time, monotonic time and waiting."""

    def now(self) -> float:
        """Return seconds since the Unix epoch."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds on the highest-resolution clock that never goes back."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""
        time.sleep(seconds)


class ManualClock:
    """A clock that moves only when told to; sleeping moves it."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        return self._now

    def monotonic(self) -> float:
        """Return the same time: this clock never goes back either."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Move the clock forward by this many seconds."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move the clock forward by this many seconds."""
        self._now += seconds


def seeded(seed: int) -> random.Random:
    """Return a random generator that gives the same numbers for the same seed."""
    return random.Random(seed)  # noqa: S311 - simulations and back-off, never secrets


def new_token(num_bytes: int = 8) -> str:
    """Return fresh, unguessable lower-case hexadecimal text of twice this length."""
    return secrets.token_hex(num_bytes)


def utc_text(seconds: float) -> str:
    """Return an instant as ISO 8601 text in UTC, to the second."""
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
