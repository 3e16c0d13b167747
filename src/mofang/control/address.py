"""Where a controller listens, for those on both ends of the socket. Light: commands import it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["bound_address", "log_path", "socket_path"]

_LONGEST = 100  # bytes; the kernel's limit for the path of a unix socket is 107


def socket_path(home: Path) -> Path:
    """Return the socket of the controller of this home."""
    return home / "controller.sock"


def log_path(home: Path) -> Path:
    """Return the log of the controller of this home."""
    return home / "controller.log"


@contextmanager
def bound_address(path: Path) -> Iterator[str]:
    """Give an address for ``path`` that fits into a unix socket's name, however deep the home lies.

    A long path goes through the folder's open descriptor, which names it in a few characters.

    Raises:
        OSError: the folder of the socket does not exist.
    """
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
