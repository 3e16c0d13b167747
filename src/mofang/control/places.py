"""The backends by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mofang.backends.protocol import Backend
from mofang.clock import Clock
from mofang.errors import UsageError

__all__ = ["NAMES", "make_backends"]

NAMES = ("local", "memory")


def make_backends(names: Sequence[str], home: Path, clock: Clock) -> dict[str, Backend]:
    """Return these backends by name; each is imported only where it is wanted.

    Raises:
        UsageError: there is no backend of that name.
    """
    return {name: _make(name, home, clock) for name in names}


def _make(name: str, home: Path, clock: Clock) -> Backend:
    if name == "local":
        from mofang.backends.local.backend import LocalBackend  # noqa: PLC0415

        return LocalBackend(home, clock)
    if name == "memory":
        from mofang.backends.memory import MemoryBackend  # noqa: PLC0415

        return MemoryBackend.of_cores(4, clock)
    raise UsageError(f"there is no backend {name!r}", hint=f"there are {', '.join(NAMES)}")
