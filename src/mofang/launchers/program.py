"""What a launcher makes of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Program"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One worker's command line, what it adds to the environment, and files of the attempt directory."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
