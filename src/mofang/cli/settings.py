"""Where Mofang keeps what belongs to one user."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["home"]


def home() -> Path:
    """Return ``$MOFANG_HOME``, or ``~/.mofang`` where it is not set; the folder need not exist yet."""
    chosen = os.environ.get("MOFANG_HOME")
    return (Path(chosen).expanduser() if chosen else Path.home() / ".mofang").absolute()
